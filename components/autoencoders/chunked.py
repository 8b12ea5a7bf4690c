"""A video VAE that looks at chunks of frames, each alone: non-causal inside of a chunk, blind beyond it.

This is DFoT's scheme for Kinetics-600 with chunks of four: three frames of zeros come before the first frame, so that
17 frames are five chunks and five latent frames. A latent frame decodes alone; of the first chunk the last frame is
kept.
"""

from typing import Literal

from components.autoencoders.folded import FoldedVAE, FoldedVAEConfig
from components.nn.conv3d import FrameBlock


class ChunkedVAEConfig(FoldedVAEConfig):
    """Kinetics' kind of VAE: {1, 4} x 8 x 8 there; `stride_time` is the length of a chunk."""

    kind: Literal["chunked"]

    def build(self) -> "ChunkedVAE":
        """The VAE with fresh weights."""
        return ChunkedVAE(self)


class ChunkedVAE(FoldedVAE):
    """The frames of a chunk are channels of one picture, so every convolution sees all of them and no others."""

    def __init__(self, config: ChunkedVAEConfig) -> None:
        super().__init__(config, FrameBlock, "zeros")
        self.config = config

    @property
    def frame_formula(self) -> str:
        """How frames are counted, and what a latent frame is made of."""
        stride = self.config.stride_time
        return f"1 + (f - 1) / {stride} latent frames, each of its own {stride} pixel frames alone"
