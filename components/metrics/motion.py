"""Whether clips move, and as much as the truth does: what FVD alone does not tell apart from a blur."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from components.errors import InputError

FROZEN = 0.1  # of the motion of the truth: with less a prediction has stopped


def motion(clips: UInt8[Tensor, "b f c h w"]) -> Float[Tensor, "b"]:
    """Mean absolute difference of neighbouring frames of each clip, in grey levels of 0..255; 0 for a frozen clip.

    Raises InputError for clips of a single frame.
    """
    if clips.shape[1] < 2:
        raise InputError("the motion of a single frame is not defined; give clips of at least two frames")
    return torch.stack([clip.float().diff(dim=0).abs().mean() for clip in clips])


def against(clips: Float[Tensor, "b"], truth: Float[Tensor, "b"]) -> dict[str, float]:
    """`motion_ratio`: motion of the clips for one of the truth's, 1 is right; `frozen`: the share that has stopped.

    Both are of clips whose truth moves; where none does there is nothing to tell.
    """
    if not (truth > 0).any():
        return {}
    stopped = (clips < FROZEN * truth)[truth > 0]
    return {"motion_ratio": float(clips.sum() / truth.sum()), "frozen": float(stopped.float().mean())}
