"""Distance between the shapes of moving objects in predictions and truth, independent of their position in the frame.

The score is the sliced Wasserstein distance between patches of predictions and of the truth in moving regions (Karras
et al. 2018, Sec. 5; Rabin et al. 2011).
"""

import math
from typing import Final

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

PATCH: Final = 7  # pixels, height and width (Karras et al.)
DIRECTIONS: Final = 32  # directions that patches are projected on, the same in every evaluation
LATE: Final = 4  # the last 1 / LATE of the frames are compared, because form is lost gradually


def last_frames(frames: slice) -> slice:
    """Return the last quarter of these frames, at least one."""
    return slice(frames.stop - math.ceil((frames.stop - frames.start) / LATE), frames.stop)


@torch.no_grad()
def distance(
    clips: UInt8[Tensor, "n f c h w"],
    truth: UInt8[Tensor, "b f c h w"],
    clips_move: Bool[Tensor, "n h w"],
    truth_moves: Bool[Tensor, "b h w"],
    device: torch.device,
) -> float | None:
    """Return the sliced Wasserstein distance between the patches of each frame and of its true frame, in grey levels.

    Only patches that overlap a moving pixel of the truth or of the prediction are compared. Patches that occur in both
    frames cancel out, so an object at a wrong position adds nothing. The sum is divided by the number of patches that
    overlap motion in the truth. Return None if nothing moves in the truth. The n / b predictions of each true clip are
    consecutive.
    """
    weights = _directions(clips.shape[2]).to(device)
    samples, total, count = len(clips) // len(truth), 0.0, 0
    for index, clip in enumerate(clips):
        truth_index = index // samples
        true_motion = _overlaps(truth_moves[truth_index])
        patches = (true_motion | _overlaps(clips_move[index])).to(device)
        projections = (
            functional.conv2d(frames.to(device).float(), weights)[:, :, patches].sort(dim=-1).values
            for frames in (clip, truth[truth_index])
        )
        fake, real = projections
        total += float((fake - real).abs().sum(dim=-1, dtype=torch.float64).sum()) / DIRECTIONS
        count += int(true_motion.sum()) * len(clip)
    return total / count if count else None


def _directions(channels: int) -> Float[Tensor, "_ c _ _"]:
    """Return random directions of equal length, scaled so that patches one grey level apart have a distance of 1."""
    directions = torch.randn(DIRECTIONS, channels, PATCH, PATCH, generator=torch.Generator().manual_seed(0))
    directions /= directions.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
    return directions / directions.sum(dim=(1, 2, 3)).abs().mean()


def _overlaps(moves: Bool[Tensor, "h w"]) -> Bool[Tensor, "_ _"]:
    """Return a mask of the patches inside the frame that contain a moving pixel."""
    return functional.max_pool2d(moves[None].float(), PATCH, stride=1)[0] > 0
