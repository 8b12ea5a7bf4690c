"""Clips on disk: windows cut out of videos, in shards made one by one, with a report of the videos rejected.

A clip is `frames` frames of a video, every `stride`-th, so it spans (frames - 1) stride + 1 frames of the video; clips
of a video start at frames 0, step, 2 step, ... as long as they fit.
"""

import collections
import csv
import functools
import hashlib
import html
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from components import config as configs
from components.config import Config
from components.data import shards, video
from components.data.shards import SPLITS, Shard, Split
from components.data.sources import DatasetConfig, Source
from components.errors import InputError

_INDEX: Final = "clips.csv"
_COLUMNS: Final = ("clip", "split", "shard", "row", "video", "first_frame")
# What does not change the clips: where the videos lie, and how many bad ones are borne with.
_NOT_CONTENT: Final = ("path", "max_rejected")
_MOST_REPEATED: Final = (
    0.25  # share of frames like the one before; more is doubtful, though a still scene may be genuine
)


@dataclass(frozen=True, slots=True)
class ShardJob:
    """The videos of one shard: one independent piece of work."""

    split: Split
    index: int
    videos: tuple[Source, ...]


class Cut(Config):
    """Where a clip comes from: its video, and the number of its first frame there."""

    video: str
    first_frame: int


class Finding(Config):
    """A video, and what is to be said of it in a few words."""

    split: Split
    video: str
    reason: str


class ShardReport(Config):
    """What became of a job: plain data, to be pickled or kept as JSON. `shard` is None where no video was good."""

    split: Split
    index: int
    videos: int
    shard: Shard | None
    clips: tuple[Cut, ...]
    rejections: tuple[Finding, ...]
    doubts: tuple[Finding, ...]  # of good videos
    digests: dict[str, str]  # good videos, and the sha256 of their clips


class ClipsManifest(shards.Manifest):
    """What a folder of clips holds: equal clips cut by equal choices have equal hashes, wherever the videos lie."""

    frames: int
    size: tuple[int, int]  # height, width in pixels
    channels: Literal["rgb"]
    cut: dict[str, Any]  # the choices that the clips were cut by


def jobs(sources: Sequence[Source], config: DatasetConfig) -> tuple[ShardJob, ...]:
    """The work in pieces of `config.shard` videos, by split and name; a piece is held in memory as a whole."""
    pieces = []
    for split in SPLITS:
        videos = sorted((source for source in sources if source.split == split), key=lambda source: source.name)
        starts = range(0, len(videos), config.shard)
        pieces += [
            ShardJob(split, index, tuple(videos[start : start + config.shard])) for index, start in enumerate(starts)
        ]
    return tuple(pieces)


def write_shard(job: ShardJob, config: DatasetConfig, out: Path) -> ShardReport:
    """Decode the videos of a job, each once and in order, and write their clips as one shard of uint8 "b f c h w"."""
    cuts: list[Cut] = []
    rows: list[UInt8[Tensor, "b f c h w"]] = []
    rejections: list[Finding] = []
    doubts: list[Finding] = []
    digests: dict[str, str] = {}
    for source in job.videos:
        try:
            film = video.read(source.path, config.resolution)
            first_frames, clips = _cut(film.frames, config)
        except InputError as error:
            rejections.append(Finding(split=job.split, video=source.name, reason=_reason(error, source)))
            continue
        if film.repeated > _MOST_REPEATED:
            reason = f"repeats {film.repeated:.0%} of its frames"
            doubts.append(Finding(split=job.split, video=source.name, reason=reason))
        cuts += [Cut(video=source.name, first_frame=first) for first in first_frames]
        rows.append(clips)
        digests[source.name] = hashlib.sha256(clips.numpy().tobytes()).hexdigest()
    return ShardReport(
        split=job.split,
        index=job.index,
        videos=len(job.videos),
        shard=shards.write_rows(out, job.split, job.index, torch.cat(rows)) if rows else None,
        clips=tuple(cuts),
        rejections=tuple(rejections),
        doubts=tuple(doubts),
        digests=digests,
    )


def _reason(error: InputError, source: Source) -> str:
    """What is wrong, without the path (the report names the video) and without the advice (there is one for all)."""
    return str(error).removeprefix(f"{source.path} ").partition("; ")[0]


def _cut(frames: UInt8[Tensor, "f c h w"], config: DatasetConfig) -> tuple[range, UInt8[Tensor, "b ... h w"]]:
    span = (config.frames - 1) * config.stride + 1
    if len(frames) < span:
        spaced = f" ({config.frames} of every {config.stride})" if config.stride > 1 else ""
        raise InputError(f"has {len(frames)} frames, a clip needs {span}{spaced}")
    first_frames = range(0, len(frames) - span + 1, config.step)
    return first_frames, torch.stack([frames[first : first + span : config.stride] for first in first_frames])


def finish(out: Path, reports: Iterable[ShardReport], config: DatasetConfig) -> dict[str, float]:
    """Write clips.csv, manifest.json, rejected.json and rejected.html: the same bytes for any order of the reports.

    Returns the numbers of videos, clips and so on. Raises InputError, after the report of rejected videos is written,
    if more than `max_rejected` of the videos are rejected or no clip is left to train.
    """
    reports = sorted(reports, key=lambda report: (SPLITS.index(report.split), report.index))
    videos = sum(report.videos for report in reports)
    rejections = [finding for report in reports for finding in report.rejections]
    doubts = [finding for report in reports for finding in report.doubts] + _duplicates(reports)
    _write_findings(out, videos, rejections, doubts)
    present = shards.ordered(report.shard for report in reports)
    counts = shards.counts(present)
    _check_rejections(rejections, videos, counts, config, out)
    manifest = ClipsManifest(
        shards=present,
        counts=counts,
        files={_INDEX: _write_index(out, reports)},
        frames=config.frames,
        size=config.resolution,
        channels="rgb",
        cut={name: choice for name, choice in configs.plain(config).items() if name not in _NOT_CONTENT},
    )
    shards.write_manifest(out, manifest)
    return {
        "videos": float(videos),
        "videos_rejected": float(len(rejections)),
        "videos_doubtful": float(len({finding.video for finding in doubts})),
        **{f"clips_{split}": float(count) for split, count in counts.items()},
        "megabytes": sum(shard.bytes for shard in present) / 1e6,
    }


def _check_rejections(
    rejections: Sequence[Finding], videos: int, counts: dict[Split, int], config: DatasetConfig, out: Path
) -> None:
    kinds = collections.defaultdict(list)
    for finding in rejections:
        kinds[re.sub(r"\d+", "0", finding.reason)].append(finding)
    most = max(kinds.values(), key=len, default=[])
    example = f", most of them ({len(most)}) like {most[0].video}, which {most[0].reason}" if most else ""
    told = f"{len(rejections)} of {videos} videos are rejected{example}"
    advice = f"see {out / 'rejected.html'} and repair or remove them"
    if not counts["train"]:
        raise InputError(f"no clip is left to train: {told}; {advice}")
    if len(rejections) > config.max_rejected * videos:
        raise InputError(f"{told}; max_rejected allows a share of {config.max_rejected:g}: {advice}, or raise it")


def _duplicates(reports: Sequence[ShardReport]) -> list[Finding]:
    """Videos whose clips equal those of an earlier one, in any split."""
    first: dict[str, Finding] = {}
    found = []
    for report in reports:
        for name, digest in report.digests.items():
            told = Finding(split=report.split, video=name, reason="")
            earlier = first.setdefault(digest, told)
            if earlier is not told:
                reason = f"has the same clips as {earlier.video} in {earlier.split}"
                found.append(told.model_copy(update={"reason": reason}))
    return found


def _write_index(out: Path, reports: Sequence[ShardReport]) -> str:
    """Write clips.csv, one line a clip; `clip` counts within a split, `row` within a shard. Returns its sha256."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    clips = dict.fromkeys(SPLITS, 0)
    for report in reports:
        for row, cut in enumerate(report.clips):
            writer.writerow((clips[report.split], report.split, report.index, row, cut.video, cut.first_frame))
            clips[report.split] += 1
    return shards.write_text(out / _INDEX, text.getvalue())


def _write_findings(out: Path, videos: int, rejections: Sequence[Finding], doubts: Sequence[Finding]) -> None:
    """Write rejected.json and rejected.html: which videos are left out and why, and which are kept with doubts."""
    content = {
        "videos": videos,
        "rejected": [configs.plain(finding) for finding in rejections],
        "doubtful": [configs.plain(finding) for finding in doubts],
    }
    shards.write_json(out / "rejected.json", content)
    page = (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Rejected videos</title>\n'
        "<style>body{font:15px/1.5 sans-serif;margin:2rem}table{border-collapse:collapse}"
        "td,th{border-bottom:1px solid #ccc;padding:.3rem 1rem;text-align:left}</style>\n"
        f"<h1>{len(rejections)} of {videos} videos are rejected</h1>\n{_table(rejections)}"
        f"<h2>{len(doubts)} doubts about videos that are kept</h2>\n{_table(doubts)}</html>\n"
    )
    shards.write_text(out / "rejected.html", page)


def _table(findings: Sequence[Finding]) -> str:
    if not findings:
        return "<p>None.</p>\n"
    lines = "".join(
        f"<tr><td>{html.escape(finding.video)}</td><td>{finding.split}</td>"
        f"<td>{html.escape(finding.reason)}</td></tr>\n"
        for finding in findings
    )
    return f"<table>\n<tr><th>video</th><th>split</th><th>reason</th></tr>\n{lines}</table>\n"


class Clips:
    """The clips of one split, read from disk by memory map."""

    def __init__(self, folder: Path, manifest: ClipsManifest, split: str) -> None:
        height, width = manifest.size
        self.frames = manifest.frames
        self.size = manifest.size
        self.hash = manifest.hash
        self._split = split
        self._index = folder / _INDEX
        self._rows = shards.Rows(folder, manifest, split, (manifest.frames, 3, height, width), torch.uint8)

    @classmethod
    def open(cls, folder: Path, split: str) -> "Clips":
        """Raises InputError: manifest missing or damaged, shard missing or cut short, unknown or empty split."""
        return cls(folder, shards.read_manifest(ClipsManifest, folder), split)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "b f c h w"]:
        """These clips, in this order. Raises InputError for a damaged shard, IndexError outside the split."""
        return self._rows.read(indices)

    def name(self, index: int) -> str:
        """Where a clip comes from: "folder/video.mp4@13" starts at frame 13 of that video."""
        return self._names[index]

    def verify(self) -> None:
        """Read every byte of the split. Raises InputError that names the first damaged file."""
        self._rows.verify()

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        try:
            with self._index.open(encoding="utf-8", newline="") as file:
                lines = [line for line in csv.DictReader(file) if line["split"] == self._split]
            names = tuple(f"{line['video']}@{line['first_frame']}" for line in lines)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{self._index} cannot be read ({error}); make its folder again") from None
        if len(names) != len(self):
            raise InputError(f"{self._index} lists {len(names)} clips of {self._split}, not {len(self)}; make it again")
        return names
