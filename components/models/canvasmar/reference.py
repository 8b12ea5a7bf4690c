"""Relative tokens u = (x - origin) / scale: the model predicts the difference of a token from the expected frame.

The paper's tokens are absolute (`relative: null`). On a small grid most tokens do not change from frame to frame, and a
model of absolute tokens spends most of its training on learning to copy them.
"""

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from components.foundation.config import Config
from components.foundation.settings.ranges import Chance, Positive
from components.models import gaussian

FIRST_SCALE: Final = 0.3  # scale of every token before training


class CopyConfig(Config):
    """Copying of still tokens: they are copied from the last frame instead of sampled, as in a video codec."""

    change: Positive  # a token has moved if its mean squared change over the channels exceeds this value
    chance: Chance  # a token is copied if its predicted probability to move is lower
    weight: Positive  # weight of the binary cross-entropy of that probability


class RelativeConfig(Config):
    """Relative tokens. The origin is the canvas, and the scale is predicted from z_c.

    Without a canvas, the origin is the last frame, and the scale is one learned value per channel.
    """

    weight: Positive  # weight of the scale's loss, a negative log-likelihood
    copy_still: CopyConfig | None  # None: sample all tokens; a config needs a canvas


@dataclass(frozen=True, slots=True)
class Reference:
    """Origin and scale of the tokens of each frame."""

    origin: Float[Tensor, "r n p"]
    scale: Float[Tensor, "r n p"]
    still: Bool[Tensor, "r n"]  # copied tokens; their origin is the token of the last frame

    def absolute(self, u: Float[Tensor, "r n p"]) -> Float[Tensor, "r n p"]:
        """Return the tokens x = origin + scale u of a whole grid."""
        return self.origin + self.scale * u

    def relative(self, x: Float[Tensor, "r n p"]) -> Float[Tensor, "r n p"]:
        """Return u = (x - origin) / scale of a whole grid, the inverse of `absolute`."""
        return (x - self.origin) / self.scale


class Relative(nn.Module):
    """Predicts the scale of each token, and its probability to move."""

    def __init__(self, config: RelativeConfig, channels: int, width: int | None) -> None:
        """Build the heads; `width` is the width of z_c, or None for a model without a canvas."""
        super().__init__()
        self.config = config
        self.scale = nn.Parameter(torch.full((channels,), gaussian.unbounded(FIRST_SCALE))) if width is None else None
        self.scale_head = None if width is None else nn.Linear(width, channels)
        self.move_head = None if width is None or config.copy_still is None else nn.Linear(width, 1)
        for head in (self.scale_head, self.move_head):
            if head is not None:
                nn.init.zeros_(head.weight)
                nn.init.zeros_(head.bias)
        if self.scale_head is not None:
            nn.init.constant_(self.scale_head.bias, gaussian.unbounded(FIRST_SCALE))

    def log_scale(self, z_c: Float[Tensor, "r n d"] | None, origin: Float[Tensor, "r n p"]) -> Float[Tensor, "r n p"]:
        """Return the logarithm of the scale; z_c is detached, so that the scale's loss does not train it."""
        if self.scale_head is None or z_c is None:
            assert self.scale is not None
            unbounded = self.scale.expand_as(origin)
        else:
            unbounded = self.scale_head(z_c.detach())
        return gaussian.log_std(unbounded)

    def reference(
        self,
        z_c: Float[Tensor, "r n d"] | None,
        canvas: Float[Tensor, "r n p"] | None,
        last: Float[Tensor, "r n p"],
        *,
        copying: bool,
    ) -> Reference:
        """Return origin and scale without gradients; in training `copying` is false, so that no token is copied."""
        origin = last if canvas is None else canvas
        still = torch.zeros(last.shape[:2], dtype=torch.bool, device=last.device)
        if copying and self.move_head is not None and z_c is not None:
            assert self.config.copy_still is not None
            still = self.move_head(z_c).squeeze(-1).float().sigmoid() < self.config.copy_still.chance
            origin = torch.where(still[..., None], last, origin)
        return Reference(origin.detach().float(), self.log_scale(z_c, origin).detach().exp(), still)

    def losses(
        self, z_c: Float[Tensor, "r n d"] | None, x: Float[Tensor, "r n p"], origin: Float[Tensor, "r n p"],
        last: Float[Tensor, "r n p"],
    ) -> dict[str, Float[Tensor, ""]]:  # fmt: skip
        """Return the loss `scale`, the Gaussian negative log-likelihood of x - origin up to a constant.

        With a move head, also return `moves`, the binary cross-entropy of whether each token moved.
        """
        log_scale = self.log_scale(z_c, origin)
        terms = {"scale": gaussian.negative_log_likelihood((x - origin).float(), log_scale)}
        if self.move_head is not None and z_c is not None:
            assert self.config.copy_still is not None
            moved = ((x - last).float().square().mean(-1) > self.config.copy_still.change).float()
            logits = self.move_head(z_c).squeeze(-1).float()
            terms["moves"] = F.binary_cross_entropy_with_logits(logits, moved)
        return terms

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the terms of `losses` in the total loss."""
        weights = {"scale": self.config.weight}
        if self.move_head is not None and self.config.copy_still is not None:
            weights["moves"] = self.config.copy_still.weight
        return weights
