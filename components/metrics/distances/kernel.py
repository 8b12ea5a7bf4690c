"""KVD: the squared maximum mean discrepancy of I3D features under a cubic kernel, unbiased (Binkowski et al. 2018).

k(x, y) = (x . y / d + 1)^3. Unlike FVD, the mean of KVD is zero for equal distributions at any number of clips, so a
value may be negative. Unlike FVD, KVD is not informative for few clips, because its variance is large.
"""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from components.foundation.errors import InputError
from components.metrics.distances import intervals
from components.metrics.distances.intervals import Estimate

DESCRIPTION: Final = "KVD: unbiased squared MMD, kernel (x . y / 400 + 1)^3"
_PIECE_CLIPS: Final = 1024  # clips per piece of the kernel matrix if there are no blocks; bounds the memory


def kernel_distance(real: Float[Tensor, "b d"], fake: Float[Tensor, "n d"]) -> float:
    """Return the KVD of two sets of features. Raise InputError for fewer than two clips in a set, NaN or infinity."""
    return score(real, fake, 0).value


def score(real: Float[Tensor, "b d"], fake: Float[Tensor, "n d"], blocks: int) -> Estimate:
    """Return KVD with its jackknife interval over `blocks` blocks of clips, at most one per clip of the shorter set.

    The kernel is summed once for every pair of blocks. KVD without some blocks is a sum of these sums, so the interval
    is exact and takes little time. Raise InputError as `kernel_distance` does.
    """
    for features in (real, fake):
        _check(features)
    fewer = min(len(real), len(fake))
    used = min(blocks, fewer)
    pieces = used if used >= intervals.FEWEST_BLOCKS else 1 + fewer // _PIECE_CLIPS
    sides = [_cut(features, intervals.blocks_of(len(features), fewer, pieces), pieces) for features in (real, fake)]
    counts = [torch.tensor([len(piece) for piece in side], dtype=torch.float64) for side in sides]
    within = [_sums(side, side) for side in sides]
    for sums, side in zip(within, sides, strict=True):
        sums -= torch.diag(torch.stack([_kernel(piece, piece).diagonal().sum() for piece in side]))
    between = _sums(*sides)

    def without(*left_out: int) -> float:
        remaining = torch.tensor([piece for piece in range(pieces) if piece not in left_out])
        within_means = [_mean_of_pairs(sums, n, remaining) for sums, n in zip(within, counts, strict=True)]
        between_mean = _sub(between, remaining).sum() / (counts[0][remaining].sum() * counts[1][remaining].sum())
        return float(within_means[0] + within_means[1] - 2 * between_mean)

    return intervals.estimate(without, used)


def _kernel(x: Float64[Tensor, "b d"], y: Float64[Tensor, "n d"]) -> Float64[Tensor, "b n"]:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _sums(x: Sequence[Tensor], y: Sequence[Tensor]) -> Float64[Tensor, "q q"]:
    """Return the kernel summed over all pairs of rows, for each pair of pieces."""
    return torch.stack([torch.stack([_kernel(a, b).sum() for b in y]) for a in x])


def _mean_of_pairs(sums: Float64[Tensor, "q q"], counts: Float64[Tensor, "q"], remaining: Int[Tensor, "k"]) -> Tensor:
    count = counts[remaining].sum()
    return _sub(sums, remaining).sum() / (count * (count - 1))


def _sub(sums: Float64[Tensor, "q q"], remaining: Int[Tensor, "k"]) -> Float64[Tensor, "k k"]:
    return sums[remaining][:, remaining]


def _cut(features: Float[Tensor, "b d"], block: Int[Tensor, "b"], blocks: int) -> list[Tensor]:
    return [features[block == index].double() for index in range(blocks)]


def _check(features: Tensor) -> None:
    if len(features) < 2:
        raise InputError(f"KVD needs at least 2 clips in each set, not {len(features)}; score more clips")
    if not torch.isfinite(features).all():
        row = int((~torch.isfinite(features)).any(dim=1).nonzero()[0])
        raise InputError(f"the features of clip {row} are not finite; check the latents of that clip for NaN")
