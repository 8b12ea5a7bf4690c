"""Motion of clips compared with the true clips, and change at pixels that are still in the true clips (flicker).

FVD alone does not distinguish missing motion from blur.
"""

from typing import Final

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from components.foundation.errors import InputError

FROZEN = 0.1  # share of the truth's motion; a prediction with less is frozen
# Largest range of a still pixel over time, in grey levels. The range of 17 normal values is 3.6 standard deviations on
# average, and noise of cameras and compression has about two grey levels, so a tolerance of 2 would count most still
# pixels of real video as moving. A passing object changes a pixel by tens of grey levels.
TOLERANCE: Final = 8


def motion(clips: UInt8[Tensor, "b f c h w"]) -> Float[Tensor, "b"]:
    """Return the mean absolute difference of neighbouring frames of each clip, in grey levels of 0..255.

    Raise InputError for clips of a single frame.
    """
    if clips.shape[1] < 2:
        raise InputError("a clip of a single frame has no motion to measure; use clips of at least two frames")
    return torch.stack([clip.float().diff(dim=0).abs().mean() for clip in clips])


def ratio_to_truth(clips: Float[Tensor, "b"], truth: Float[Tensor, "b"]) -> dict[str, float]:
    """Return `motion_ratio` and `frozen`, or an empty dictionary if no true clip has motion.

    `motion_ratio` is the motion of all clips divided by that of all true clips; 1 is ideal. `frozen` is the share of
    clips with less than FROZEN times the motion of their true clip, among true clips with motion.
    """
    if not (truth > 0).any():
        return {}
    frozen = (clips < FROZEN * truth)[truth > 0]
    return {"motion_ratio": float(clips.sum() / truth.sum()), "frozen": float(frozen.float().mean())}


def moving(last: UInt8[Tensor, "b c h w"], clips: UInt8[Tensor, "b f c h w"]) -> Bool[Tensor, "b h w"]:
    """Return a mask of the pixels where the range of any channel exceeds `TOLERANCE`.

    The range is over `last`, the last frame of the context, and all frames of the clip.
    """
    masks = []
    for context_frame, clip in zip(last, clips, strict=True):
        low, high = torch.minimum(context_frame, clip.amin(dim=0)), torch.maximum(context_frame, clip.amax(dim=0))
        masks.append(((high - low) > TOLERANCE).any(dim=0))
    return torch.stack(masks)


def still_change(
    last: UInt8[Tensor, "b c h w"],
    clips: UInt8[Tensor, "n f c h w"],
    still_pixels: Bool[Tensor, "b h w"],
    frames: slice,
) -> float | None:
    """Return the mean absolute change from frame to frame at the pixels `still_pixels`, in grey levels of 0..255.

    The first predicted frame is compared with `last`, the last frame of the context, so a jump away from the context
    counts. Each of the b contexts has n / b consecutive clips. Return None if no pixel is still.
    """
    samples, length = len(clips) // len(last), frames.stop - frames.start
    total, count = 0.0, int(still_pixels.sum()) * samples * length * clips.shape[2]
    for index, clip in enumerate(clips):
        context_index = index // samples
        joined = torch.cat([last[context_index][None], clip])[frames.start : frames.stop + 1]
        total += float(joined.short().diff(dim=0).abs()[:, :, still_pixels[context_index]].sum())
    return total / count if count else None
