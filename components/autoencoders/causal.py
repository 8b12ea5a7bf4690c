"""A time-causal video VAE: a latent frame knows its own pixel frames and those before them."""

from typing import Literal

from components.autoencoders.folded import FoldedVAE, FoldedVAEConfig
from components.nn.conv3d import ResidualBlock


class CausalVAEConfig(FoldedVAEConfig):
    """BAIR's kind of VAE: {1, 2} x 4 x 4 there."""

    kind: Literal["causal"]

    def build(self) -> "CausalVAE":
        """The VAE with fresh weights."""
        return CausalVAE(self)


class CausalVAE(FoldedVAE):
    """Each block mixes a frame's pixels, then this frame with the two before it."""

    def __init__(self, config: CausalVAEConfig) -> None:
        super().__init__(config, ResidualBlock, "repeated")
        self.config = config

    @property
    def frame_formula(self) -> str:
        """How frames are counted, and what a latent frame is made of."""
        stride = self.config.stride_time
        return f"1 + (f - 1) / {stride} latent frames, each of its own {stride} pixel frames and all before them"
