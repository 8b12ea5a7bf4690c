"""Moments on disk: what the VAE made of the clips, in shards whose manifest says which VAE and which clips.

Stored in float32: a posterior's standard deviation is often a hundredth of the spread of the means, and bfloat16 rounds
a mean of 2 by that much, while float32 is exact and still smaller than the clips. Statistics are those of posterior
samples, mean + exp(log variance / 2) noise, because samples are what models are trained on.
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

from components import config as configs
from components.config import Config
from components.data import shards, words
from components.data.shards import SPLITS, Shard, Split
from components.errors import InputError

_STATISTICS: Final = "statistics.json"
_LEAST_SPREAD: Final = 1e-6  # a channel with less than this never changes


class LatentKey(Config):
    """What moments depend on: the VAE's hash, the clips' hash, and how the one was run over the other."""

    autoencoder: str
    clips: str
    settings: dict[str, JsonValue]


class Spread(Config):
    """Values, their mean and summed squared deviation by channel; parts of a data set add up (Chan et al., 1979)."""

    count: int
    mean: tuple[float, ...]
    scatter: tuple[float, ...]

    @classmethod
    def of(cls, moments: Float[Tensor, "b t i h w"]) -> "Spread":
        """The spread of posterior samples: var(sample) = var(mean) + E[exp(log variance)]. In float64."""
        mean, log_variance = (part.transpose(0, 2).flatten(1) for part in moments.double().chunk(2, dim=2))
        centre = mean.mean(1)
        scatter = (mean - centre[:, None]).square().sum(1) + log_variance.exp().sum(1)
        return cls(count=mean.shape[1], mean=tuple(centre.tolist()), scatter=tuple(scatter.tolist()))

    def __add__(self, other: "Spread") -> "Spread":
        count = self.count + other.count
        share = other.count / count
        pairs = list(zip(self.mean, other.mean, self.scatter, other.scatter, strict=True))
        return Spread(
            count=count,
            mean=tuple(a + (b - a) * share for a, b, _, _ in pairs),
            scatter=tuple(s + r + (b - a) ** 2 * self.count * share for a, b, s, r in pairs),
        )


class ShardReport(Config):
    """One shard of moments, the shape of a row (t, i, h, w) and its part of the statistics; picklable, plain data."""

    shard: Shard
    shape: tuple[int, int, int, int]
    spread: Spread


class LatentsManifest(shards.Manifest):
    """What a folder of moments holds, and what it was made of."""

    key: LatentKey
    shape: tuple[int, int, int, int]  # t, i = 2 c, h, w of a row


def write_shard(out: Path, split: Split, index: int, moments: Float[Tensor, "b t i h w"]) -> ShardReport:
    """Write out/<split>-<index>.safetensors, the moments of consecutive clips of a split.

    Means come first and log variances after. Raises InputError that names shard and row where moments, or the
    variances in them, are not finite.
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
    _, frames, numbers, height, width = moments.shape
    return ShardReport(
        shard=shards.write_rows(out, split, index, moments),
        shape=(frames, numbers, height, width),
        spread=Spread.of(moments),
    )


def keep(state: Path, report: ShardReport, stamp: str) -> None:
    """Writes beside a shard what it is, for `finished`; `stamp` says what it was made of."""
    shards.write_json(
        _journal(state, report.shard.split, report.shard.index), {"stamp": stamp, "report": configs.plain(report)}
    )


def finished(state: Path, split: Split, index: int, stamp: str) -> ShardReport | None:
    """The report of a whole shard that was made before with this stamp; else None."""
    path = _journal(state, split, index)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        report = configs.parse(ShardReport, content["report"], where=str(path))
        whole = content["stamp"] == stamp and shards.sha256(state / report.shard.file) == report.shard.sha256
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None
    return report if whole else None


def _journal(state: Path, split: Split, index: int) -> Path:
    return state / f"{split}-{index:05d}.json"


def finish(
    out: Path,
    reports: Iterable[ShardReport],
    key: LatentKey,
    about: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, float]:
    """Write statistics.json and manifest.json: the same bytes for any order of the reports.

    The statistics are of the split train; `about` is what each clip is about, where that is known. Returns the numbers
    of rows and so on. Raises InputError if there is nothing to train on or a channel never changes.
    """
    reports = sorted(reports, key=lambda report: (SPLITS.index(report.shard.split), report.shard.index))
    present = shards.ordered(report.shard for report in reports)
    if len(shapes := {report.shape for report in reports}) > 1:
        raise ValueError(f"shards of one folder have rows of different shapes: {sorted(shapes)}")
    spreads = [report.spread for report in reports if report.shard.split == "train"]
    if not spreads:
        raise InputError(f"there are no moments of the split train for {out}; give the data set videos to train on")
    spread = functools.reduce(operator.add, spreads)
    deviation = [math.sqrt(scatter / spread.count) for scatter in spread.scatter]
    if min(deviation) < _LEAST_SPREAD:
        raise InputError(
            f"channel {deviation.index(min(deviation))} of the latents never changes (standard deviation "
            f"{min(deviation):.1g}); train the autoencoder again with a smaller KL weight or fewer channels"
        )
    content = {"count": spread.count, "mean": list(spread.mean), "standard_deviation": deviation}
    manifest = LatentsManifest(
        shards=present,
        counts=shards.counts(present),
        files={
            _STATISTICS: shards.write_json(out / _STATISTICS, content),
            **({} if about is None else words.write(out, about)),
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
    """The moments of one split, read from disk by memory map; row i belongs to clip i of that split."""

    def __init__(self, folder: Path, manifest: LatentsManifest, split: str) -> None:
        frames, numbers, height, width = manifest.shape
        self.shape = (frames, numbers // 2, height, width)  # t, c, h, w of the latents
        self.key = manifest.key
        self.hash = manifest.hash
        self.files = manifest.files  # beside the shards
        self.mean, self.std = _read_statistics(folder / _STATISTICS, numbers // 2)
        self._rows = shards.Rows(folder, manifest, split, manifest.shape, torch.float32)

    @classmethod
    def open(cls, folder: Path, split: str, expect: LatentKey | None) -> "Latents":
        """`expect` is the key that the moments must have, None for any.

        Raises InputError: another key, manifest missing or damaged, shard missing or cut short, unknown or empty split.
        """
        manifest = shards.read_manifest(LatentsManifest, folder)
        if expect is not None:
            refuse_stale(folder, manifest.key, expect)
        return cls(folder, manifest, split)

    def __len__(self) -> int:
        return len(self._rows)

    def moments(self, indices: Sequence[int]) -> Float[Tensor, "b t i h w"]:
        """These rows, in this order: means first, log variances after. Raises InputError for a damaged shard."""
        return self._rows.read(indices)

    def verify(self) -> None:
        """Read every byte of the split. Raises InputError that names the first damaged file."""
        self._rows.verify()


def refuse_stale(folder: Path, key: Config, expect: Config, what: str = "latents") -> None:
    """Raises InputError that says what differs, if what was made with one key is not what another asks for."""
    stored, wanted = configs.flatten(configs.plain(key)), configs.flatten(configs.plain(expect))
    differing = [name for name in sorted(stored.keys() | wanted.keys()) if stored.get(name) != wanted.get(name)]
    if differing:
        told = ", ".join(f"{name} {stored.get(name)!r} instead of {wanted.get(name)!r}" for name in differing)
        raise InputError(f"the {what} in {folder} are stale, made with {told}; make the {what} again")


def _read_statistics(path: Path, channels: int) -> tuple[Float[Tensor, "c"], Float[Tensor, "c"]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = ("mean", "standard_deviation")
        mean, std = (torch.tensor(content[name], dtype=torch.float32) for name in names)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}); make the latents again") from None
    if mean.shape != (channels,) or std.shape != (channels,):
        raise InputError(f"{path} does not tell of {channels} channels; make the latents again")
    return mean, std


def sample(moments: Float[Tensor, "b t i h w"], noise: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
    """Latents from moments and unit normal noise: mean + exp(log variance / 2) noise."""
    mean, log_variance = moments.chunk(2, dim=2)
    return mean + (0.5 * log_variance).exp() * noise


def standardise(
    latents: Float[Tensor, "b t c h w"], mean: Float[Tensor, "c"], std: Float[Tensor, "c"]
) -> Float[Tensor, "b t c h w"]:
    """Latents of about zero mean and unit variance in every channel, as Eq. 11 and 12 need them."""
    return (latents - mean[:, None, None]) / std[:, None, None]


def restore(
    latents: Float[Tensor, "b t c h w"], mean: Float[Tensor, "c"], std: Float[Tensor, "c"]
) -> Float[Tensor, "b t c h w"]:
    """The inverse of `standardise`: what the VAE decodes."""
    return latents * std[:, None, None] + mean[:, None, None]
