"""KVD: the squared maximum mean discrepancy of I3D features under a cubic kernel, unbiased (Binkowski et al. 2018).

k(x, y) = (x . y / d + 1)^3. Unlike FVD it is zero on average for equal distributions whatever the number of clips, and
so may be negative; unlike FVD it says little at few clips, because chance moves it far.
"""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from components.errors import InputError
from components.metrics import intervals
from components.metrics.intervals import Estimate

DESCRIPTION: Final = "KVD: unbiased squared MMD, kernel (x . y / 400 + 1)^3"
_PIECE: Final = 1024  # clips whose part of the kernel's matrix is held at a time where there are no blocks


def kernel_distance(real: Float[Tensor, "b d"], fake: Float[Tensor, "n d"]) -> float:
    """KVD of two sets of features. Raises InputError for fewer than two clips on a side, NaN or infinity."""
    return score(real, fake, 0).value


def score(real: Float[Tensor, "b d"], fake: Float[Tensor, "n d"], blocks: int) -> Estimate:
    """KVD with its interval from leaving out blocks of clips, as many as `blocks` or the shorter set allow.

    The kernel is summed once between every two blocks; what is left without some of them are sums of these sums, so
    the interval is exact and costs nothing. Raises InputError as `kernel_distance` does.
    """
    for features in (real, fake):
        _check(features)
    fewer = min(len(real), len(fake))
    used = min(blocks, fewer)
    pieces = used if used >= intervals.FEWEST_BLOCKS else 1 + fewer // _PIECE
    sides = [_cut(features, intervals.blocks_of(len(features), fewer, pieces), pieces) for features in (real, fake)]
    counts = [torch.tensor([len(piece) for piece in side], dtype=torch.float64) for side in sides]
    within = [_sums(side, side) for side in sides]
    for sums, side in zip(within, sides, strict=True):
        sums -= torch.diag(torch.stack([_kernel(piece, piece).diagonal().sum() for piece in side]))
    between = _sums(*sides)

    def without(*gone: int) -> float:
        kept = torch.tensor([piece for piece in range(pieces) if piece not in gone])
        own = [_mean_of_pairs(sums, n, kept) for sums, n in zip(within, counts, strict=True)]
        across = _sub(between, kept).sum() / (counts[0][kept].sum() * counts[1][kept].sum())
        return float(own[0] + own[1] - 2 * across)

    return intervals.estimate(without, used)


def _kernel(x: Float64[Tensor, "b d"], y: Float64[Tensor, "n d"]) -> Float64[Tensor, "b n"]:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _sums(x: Sequence[Tensor], y: Sequence[Tensor]) -> Float64[Tensor, "q q"]:
    """The kernel summed over all pairs of rows of each two pieces."""
    return torch.stack([torch.stack([_kernel(a, b).sum() for b in y]) for a in x])


def _mean_of_pairs(sums: Float64[Tensor, "q q"], counts: Float64[Tensor, "q"], kept: Int[Tensor, "k"]) -> Tensor:
    count = counts[kept].sum()
    return _sub(sums, kept).sum() / (count * (count - 1))


def _sub(sums: Float64[Tensor, "q q"], kept: Int[Tensor, "k"]) -> Float64[Tensor, "k k"]:
    return sums[kept][:, kept]


def _cut(features: Float[Tensor, "b d"], block: Int[Tensor, "b"], blocks: int) -> list[Tensor]:
    return [features[block == index].double() for index in range(blocks)]


def _check(features: Tensor) -> None:
    if len(features) < 2:
        raise InputError(f"KVD needs at least 2 clips a side, not {len(features)}; score more clips")
    if not torch.isfinite(features).all():
        row = int((~torch.isfinite(features)).any(dim=1).nonzero()[0])
        raise InputError(f"the features of clip {row} are not finite; look for NaN in what that clip was decoded from")
