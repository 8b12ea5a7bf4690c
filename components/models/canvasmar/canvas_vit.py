"""Canvas ViT: z_c from z_t and the last frame in one pass; heads for canvas and staticness (sections 4.2 and 4.3)."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from components.foundation.settings.ranges import Interval, NonNegative, Positive, Share
from components.models.layers.blocks import LocalConvolution, PlainBlock, ViTConfig, initialise
from components.models.layers.embeddings import grid_position, patchify
from components.nn.from_timm import mlp


class CanvasConfig(ViTConfig):
    """Size of the Canvas ViT, its training noise, and its loss weights."""

    frame_noise: Interval  # interval of r in training, Eq. 11
    canvas_noise: Interval  # interval of r' in training, Eq. 12
    canvas_weight: NonNegative  # lambda_c of Eq. 10
    static_weight: NonNegative  # lambda_s of Eq. 10
    static_scale: Positive  # s = exp(-static_scale * error); 1 is the paper's Eq. 6
    change: bool  # true: the head predicts the change from the last frame; false: the whole frame (paper)
    history: Literal[1, 2]  # number of newest frames in the input; 2 shows the last change of each token (paper: 1)
    own: Share  # share of the input frames that are replaced by their canvases in training (paper: 0)
    local: bool  # depthwise 3x3 convolution before each block (CPVT, arXiv 2102.10882); the paper has none


def blend(
    x: Float[Tensor, "b *s"], noise: Float[Tensor, "b *s"], strength: Float[Tensor, "b"] | float
) -> Float[Tensor, "b *s"]:
    """Return x (1 - r) + noise r, Eq. 11 and 12; `strength` is r."""
    if isinstance(strength, Tensor):
        strength = strength.view(-1, *(1,) * (x.ndim - 1))
    return x * (1 - strength) + noise * strength


class CanvasViT(nn.Module):
    """Transformer that predicts the canvas: the expected next frame, blurred where the future is uncertain."""

    position: Float[Tensor, "n d"]

    def __init__(self, config: CanvasConfig, latent: tuple[int, int, int], group: int) -> None:
        super().__init__()
        channels, height, width = latent
        self.config = config
        self.embed = nn.Linear(config.history * channels, config.width)
        self.local = nn.ModuleList(
            LocalConvolution(config.width, (height, width)) for _ in range(config.layers if config.local else 0)
        )
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)  # gives z_c unit variance, which the unit noise of Eq. 12 assumes
        heads = group if group > 1 else 0
        self.frame_heads = nn.ModuleList(mlp(config.width, config.width) for _ in range(heads))
        self.canvas_head = nn.Linear(config.width, channels)
        self.static_head = nn.Linear(config.width, 1)
        self.register_buffer("position", grid_position(height, width, config.width), persistent=False)
        initialise(self)
        if config.change:
            nn.init.zeros_(self.canvas_head.weight)  # before training the canvas is the last frame
        for head in self.frame_heads:  # before training all frames of a group have the same z_c
            nn.init.zeros_(head.get_submodule("fc2").get_parameter("weight"))

    def forward(
        self,
        z_t: Float[Tensor, "b m d"],
        frames: Float[Tensor, "b g c h w"],
        action: Float[Tensor, "b d"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Return z_c of the next frame.

        z_t is the prefix of the sequence. `frames` are the newest `history` frames with noise added, oldest first.
        `action` is the embedding of the action that leads to the next frame, for a model with actions.
        """
        tokens = patchify(frames, 1)
        inputs = [tokens[:, -1], *(tokens[:, -1] - older for older in tokens[:, :-1].unbind(1))]
        grid = self.embed(torch.cat(inputs, dim=-1)) + self.position
        x = torch.cat([z_t, grid if action is None else grid + action[:, None]], dim=1)
        prefix = z_t.shape[1]
        for depth, block in enumerate(self.blocks, 1):
            if self.config.local:
                x = torch.cat([x[:, :prefix], self.local[depth - 1](x[:, prefix:])], dim=1)
            x = block(x, (x.shape[1], 0, 0), first=prefix if depth == len(self.blocks) else 0)
        return self.norm(x)

    def own_groups(self, groups: int) -> int:
        """Return how many of a clip's groups are replaced by canvases in training; at least one if `own` is not 0."""
        return max(round(self.config.own * groups), 1) if self.config.own else 0

    def per_frame(self, z_c: Float[Tensor, "b n d"]) -> Float[Tensor, "r n d"]:
        """Return z_c of each frame of a group; the frames of one group are adjacent rows (appendix B).

        Each frame adds the output of its own two-layer MLP to z_c. If the group is one frame, return z_c itself.
        """
        if not self.frame_heads:
            return z_c
        return torch.stack([z_c + head(z_c) for head in self.frame_heads], dim=1).flatten(0, 1)

    def canvas(self, z_c: Float[Tensor, "r n d"], last: Float[Tensor, "r n p"]) -> Float[Tensor, "r n p"]:
        """Return f_canvas, the expected tokens of the next frame; `last` holds the tokens of the last known frame."""
        predicted = self.canvas_head(z_c)
        return last + predicted if self.config.change else predicted

    def staticness(self, z_c: Float[Tensor, "b n d"]) -> Float[Tensor, "b n"]:
        """Return f_static, the predicted staticness in [0, 1]; values near 1 mean little motion."""
        return self.static_head(z_c).squeeze(-1).sigmoid()

    def losses(
        self, z_c: Float[Tensor, "r n d"], canvas: Float[Tensor, "r n p"], x: Float[Tensor, "r n p"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Return L_canvas (Eq. 5) and L_static (Eq. 6 and 7, without gradient through the target).

        L_canvas is the mean over tokens and channels; the paper sums over channels.
        """
        error = (canvas.float() - x).square()
        target = torch.exp(-self.config.static_scale * error.detach().sum(-1))
        static = (self.staticness(z_c).float() - target).square().mean()
        return {"canvas": error.mean(), "static": static}
