"""z_t and the last frame -> z_c in one pass; the canvas and its staticness are read off z_c (section 4.2 and 4.3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from components.nn.blocks import PlainBlock, ViTConfig, initialise
from components.nn.embeddings import grid_position, patchify
from components.nn.from_timm import mlp


class CanvasConfig(ViTConfig):
    """The Canvas ViT, the noise that it is trained with, and the weights of its losses."""

    frame_noise: tuple[float, float]  # r of Eq. 11, drawn from this interval
    canvas_noise: tuple[float, float]  # r' of Eq. 12
    canvas_weight: float  # lambda_c of Eq. 10
    static_weight: float  # lambda_s of Eq. 10
    static_scale: float  # s = exp(-static_scale * error); 1 is the paper's Eq. 6


def blend(
    x: Float[Tensor, "b *s"], noise: Float[Tensor, "b *s"], strength: Float[Tensor, "b"] | float
) -> Float[Tensor, "b *s"]:
    """x (1 - r) + noise r, Eq. 11 and 12."""
    if isinstance(strength, Tensor):
        strength = strength.view(-1, *(1,) * (x.ndim - 1))
    return x * (1 - strength) + noise * strength


class CanvasViT(nn.Module):
    """The expected next frame, blurred where the future is open."""

    position: Float[Tensor, "n d"]

    def __init__(self, config: CanvasConfig, latent: tuple[int, int, int], group: int) -> None:
        super().__init__()
        channels, height, width = latent
        self.config = config
        self.embed = nn.Linear(channels, config.width)
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)  # gives z_c unit variance, which Eq. 12's unit noise presumes
        heads = group if group > 1 else 0
        self.frame_heads = nn.ModuleList(mlp(config.width, config.width) for _ in range(heads))
        self.canvas_head = nn.Linear(config.width, channels)
        self.static_head = nn.Linear(config.width, 1)
        self.register_buffer("position", grid_position(height, width, config.width), persistent=False)
        initialise(self)
        for head in self.frame_heads:  # every frame of a group begins as the next frame
            nn.init.zeros_(head.get_submodule("fc2").get_parameter("weight"))

    def forward(self, z_t: Float[Tensor, "b m d"], last: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """z_c, from z_t as a prefix and the last frame with its noise."""
        x = torch.cat([z_t, self.embed(patchify(last, 1)) + self.position], dim=1)
        for block in self.blocks:
            x = block(x, (x.shape[1], 0, 0))
        return self.norm(x[:, z_t.shape[1] :])

    def each(self, z_c: Float[Tensor, "b n d"]) -> Float[Tensor, "r n d"]:
        """z_c of each frame that is predicted together, those of a row one after the other (appendix B).

        Each is z_c and a two-layer MLP's correction, none where frames are predicted one at a time.
        """
        if not self.frame_heads:
            return z_c
        return torch.stack([z_c + head(z_c) for head in self.frame_heads], dim=1).flatten(0, 1)

    def canvas(self, z_c: Float[Tensor, "b n d"]) -> Float[Tensor, "b n p"]:
        """f_canvas: the expected tokens of the next frame."""
        return self.canvas_head(z_c)

    def staticness(self, z_c: Float[Tensor, "b n d"]) -> Float[Tensor, "b n"]:
        """f_static: in [0, 1], near one where little moves."""
        return self.static_head(z_c).squeeze(-1).sigmoid()

    def losses(
        self, z_c: Float[Tensor, "b n d"], x: Float[Tensor, "b n p"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """L_canvas (Eq. 5, mean over tokens and channels) and L_static (Eq. 6 and 7, no gradient into its target)."""
        error = (self.canvas(z_c).float() - x).square()
        target = torch.exp(-self.config.static_scale * error.detach().sum(-1))
        return error.mean(), (self.staticness(z_c).float() - target).square().mean()
