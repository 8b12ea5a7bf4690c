"""Moments on disk: the VAE's posterior means and log variances of the clips, in shards with a manifest.

Moments are float32. In bfloat16, the rounding error of a mean of 2 is about a hundredth, which is often as large as the
posterior's standard deviation. Moments in float32 are still smaller than the clips. The statistics are those of
posterior samples, mean + exp(log variance / 2) noise, because models are trained on samples.
"""

import functools
import json
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float
from pydantic import JsonValue
from torch import Tensor

from components.datasets import shards
from components.datasets.shards import SPLITS, Shard, Split
from components.foundation import config as configs
from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.files import sha256, write_json
from components.foundation.settings.ranges import Count, NonNegative

_STATISTICS: Final = "statistics.json"
_LEAST_SPREAD: Final = 1e-6  # a channel with a smaller standard deviation counts as constant


class LatentKey(Config):
    """Cache key of moments: the VAE's hash, the clips' hash and the settings of the encoding."""

    autoencoder: str
    clips: str
    settings: dict[str, JsonValue]


class ChannelStatistics(Config):
    """Count, mean and summed squared deviation of each channel.

    The sum of two objects has the statistics of both parts together (Chan et al., 1979).
    """

    count: Count
    mean: tuple[float, ...]
    scatter: tuple[NonNegative, ...]

    @classmethod
    def of(cls, moments: Float[Tensor, "b t i h w"]) -> "ChannelStatistics":
        """Return the statistics of posterior samples: var(sample) = var(mean) + E[exp(log variance)]. In float64."""
        mean, log_variance = (part.transpose(0, 2).flatten(1) for part in moments.double().chunk(2, dim=2))
        centre = mean.mean(1)
        scatter = (mean - centre[:, None]).square().sum(1) + log_variance.exp().sum(1)
        return cls(count=mean.shape[1], mean=tuple(centre.tolist()), scatter=tuple(scatter.tolist()))

    def __add__(self, other: "ChannelStatistics") -> "ChannelStatistics":
        count = self.count + other.count
        share = other.count / count
        pairs = list(zip(self.mean, other.mean, self.scatter, other.scatter, strict=True))
        return ChannelStatistics(
            count=count,
            mean=tuple(a + (b - a) * share for a, b, _, _ in pairs),
            scatter=tuple(s + r + (b - a) ** 2 * self.count * share for a, b, s, r in pairs),
        )


class ShardReport(Config):
    """A shard of moments, the shape (t, i, h, w) of its rows and its statistics, as plain, picklable data."""

    shard: Shard
    shape: tuple[Count, Count, Count, Count]
    spread: ChannelStatistics


class LatentsManifest(shards.Manifest):
    """Manifest of a folder of moments."""

    key: LatentKey
    shape: tuple[Count, Count, Count, Count]  # t, i = 2 c, h, w of a row


def write_shard(out: Path, split: Split, index: int, moments: Float[Tensor, "b t i h w"]) -> ShardReport:
    """Write out/<split>-<index>.safetensors, the moments of consecutive clips of a split, and return its report.

    The means are the first c channels, the log variances the last c. Raises InputError that names the shard and the
    row if a moment or a variance is not finite, or if the shard cannot be written.
    """
    moments = moments.detach().to("cpu", torch.float32)
    mean, log_variance = moments.chunk(2, dim=2)
    finite = mean.isfinite() & log_variance.isfinite() & log_variance.exp().isfinite()
    if bad := (~finite.flatten(1).all(1)).nonzero().flatten().tolist():
        raise InputError(
            f"the moments of row {bad[0]} of shard {split}-{index:05d} are not finite "
            f"({len(bad)} of {len(moments)} rows); "
            "the autoencoder has diverged: train it again with a lower learning rate"
        )
    _, frames, channels, height, width = moments.shape
    return ShardReport(
        shard=shards.write_rows(out, split, index, moments),
        shape=(frames, channels, height, width),
        spread=ChannelStatistics.of(moments),
    )


def keep(state: Path, report: ShardReport) -> None:
    """Write a shard's report beside the shard; `finished` reads it."""
    write_json(_journal(state, report.shard.split, report.shard.index), configs.plain(report), sort_keys=True)


def finished(state: Path, split: Split, index: int) -> ShardReport | None:
    """Return the report of a finished shard; None if it is missing or damaged."""
    path = _journal(state, split, index)
    try:
        report = configs.parse(ShardReport, json.loads(path.read_text(encoding="utf-8")), where=str(path))
        whole = sha256(state / report.shard.file) == report.shard.sha256
    except (OSError, ValueError, TypeError, InputError):
        return None
    return report if whole else None


def _journal(state: Path, split: Split, index: int) -> Path:
    return state / f"{split}-{index:05d}.json"


def finish(
    out: Path,
    reports: Iterable[ShardReport],
    key: LatentKey,
    carried: Mapping[str, str],
    *,
    one_scale: bool = False,
) -> dict[str, float]:
    """Write statistics.json and manifest.json. Their bytes do not depend on the order of the reports.

    The statistics are those of the split train. `carried` are the annotation files in `out` with their sha256. With
    `one_scale` all channels get the root mean square of the channels' standard deviations, so that standardising keeps
    the channels' proportions. Returns the number of rows, the size and the standard deviations as metrics. Raises
    InputError if the split train is empty or a channel is constant.
    """
    reports = sorted(reports, key=lambda report: (SPLITS.index(report.shard.split), report.shard.index))
    present = shards.ordered(report.shard for report in reports)
    if len(shapes := {report.shape for report in reports}) > 1:
        raise ValueError(f"shards of one folder have rows of different shapes: {sorted(shapes)}")
    spreads = [report.spread for report in reports if report.shard.split == "train"]
    if not spreads:
        raise InputError(f"there are no moments of the split train for {out}; add training videos to the data set")
    spread = functools.reduce(operator.add, spreads)
    deviation = [math.sqrt(scatter / spread.count) for scatter in spread.scatter]
    if min(deviation) < _LEAST_SPREAD:
        raise InputError(
            f"channel {deviation.index(min(deviation))} of the latents never changes (standard deviation "
            f"{min(deviation):.1g}); train the autoencoder again with a smaller KL weight or fewer channels"
        )
    if one_scale:
        deviation = [math.sqrt(sum(value**2 for value in deviation) / len(deviation))] * len(deviation)
    content = {"count": spread.count, "mean": list(spread.mean), "standard_deviation": deviation}
    manifest = LatentsManifest(
        shards=present,
        counts=shards.counts(present),
        files={
            _STATISTICS: write_json(out / _STATISTICS, content, sort_keys=True),
            **carried,
        },
        key=key,
        shape=shapes.pop(),
    )
    shards.write_manifest(out, manifest)
    return {
        **{f"latents_{split}": float(count) for split, count in manifest.counts.items()},
        "megabytes": sum(shard.bytes for shard in present) / 1e6,
        "standard_deviation_least": min(deviation),
        "standard_deviation_most": max(deviation),
    }


class Latents:
    """The moments of one split, read through a memory map; row i belongs to clip i of the split."""

    def __init__(self, folder: Path, manifest: LatentsManifest, split: str) -> None:
        frames, channels, height, width = manifest.shape
        self.shape = (frames, channels // 2, height, width)  # t, c, h, w of the latents
        self.key = manifest.key
        self.hash = manifest.hash
        self.files = manifest.files  # the other files of the folder -> sha256
        self.mean, self.std = _read_statistics(folder / _STATISTICS, channels // 2)
        self._rows = shards.Rows(folder, manifest, split, manifest.shape, torch.float32)

    @classmethod
    def open(cls, folder: Path, split: str, expect: LatentKey | None) -> "Latents":
        """Open the moments of a split; their cache key must equal `expect` unless that is None.

        Raises InputError if the key differs, the manifest is missing or damaged, a shard is missing or truncated, or
        the split is unknown or empty.
        """
        manifest = shards.read_manifest(LatentsManifest, folder)
        if expect is not None:
            refuse_stale(folder, manifest.key, expect)
        return cls(folder, manifest, split)

    def __len__(self) -> int:
        return len(self._rows)

    def moments(self, indices: Sequence[int]) -> Float[Tensor, "b t i h w"]:
        """Return the rows `indices`: c means, then c log variances. Raises InputError if a shard is damaged."""
        return self._rows.read(indices)

    def verify(self) -> None:
        """Compare every file of the split with the manifest. Raises InputError that names the first damaged file."""
        self._rows.verify()


def refuse_stale(folder: Path, key: Config, expect: Config, what: str = "latents") -> None:
    """Raise InputError that names the differing fields if the cache key `key` of a folder is not `expect`."""
    stored, wanted = configs.flatten(configs.plain(key)), configs.flatten(configs.plain(expect))
    differing = [name for name in sorted(stored.keys() | wanted.keys()) if stored.get(name) != wanted.get(name)]
    if differing:
        listed = ", ".join(f"{name} {stored.get(name)!r} instead of {wanted.get(name)!r}" for name in differing)
        raise InputError(f"the {what} in {folder} are stale, made with {listed}; run `dvc repro` to make them again")


def _read_statistics(path: Path, channels: int) -> tuple[Float[Tensor, "c"], Float[Tensor, "c"]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = ("mean", "standard_deviation")
        mean, std = (torch.tensor(content[name], dtype=torch.float32) for name in names)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}); run `dvc repro` to make the latents again") from None
    if mean.shape != (channels,) or std.shape != (channels,):
        raise InputError(
            f"{path} has statistics of {len(mean)} channels, but the latents have {channels}; "
            "run `dvc repro` to make the latents again"
        )
    return mean, std


def standardise(
    latents: Float[Tensor, "b t c h w"], mean: Float[Tensor, "c"], std: Float[Tensor, "c"]
) -> Float[Tensor, "b t c h w"]:
    """Return latents of about zero mean and unit variance in every channel, as Eq. 11 and 12 need them."""
    return (latents - mean[:, None, None]) / std[:, None, None]


def restore(
    latents: Float[Tensor, "b t c h w"], mean: Float[Tensor, "c"], std: Float[Tensor, "c"]
) -> Float[Tensor, "b t c h w"]:
    """Return latents in the scale that the VAE decodes: the inverse of `standardise`."""
    return latents * std[:, None, None] + mean[:, None, None]
