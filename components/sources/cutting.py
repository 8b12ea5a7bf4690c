"""Cut clips from videos, one shard at a time, so that an interrupted run resumes at its first unfinished shard.

A clip takes `frames` frames, every `stride`-th of its video, so it spans (frames - 1) stride + 1 video frames. The
clips of a video start at frames 0, step, 2 step, ... as long as they fit.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import UInt8
from torch import Tensor

from components.datasets import actions, captions, clips, selection, shards
from components.datasets.clips import ClipsManifest
from components.datasets.shards import SPLITS, Shard, Split
from components.datasets.written import csv_files
from components.foundation import config as configs
from components.foundation.caching import code
from components.foundation.caching.cache import Cache, Entry
from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.files import sha256, write_json, write_text
from components.foundation.settings.ranges import Count, Whole
from components.sources import dataset_report, sources
from components.sources.collection import Collection, Source
from components.sources.dataset_report import Reading
from components.sources.folders import Finding
from components.sources.sources import AnyDataset, DatasetConfig
from components.video import video

# settings that do not change the clips: the videos' location, and the tolerance for bad or missing videos
_NOT_CONTENT: Final = ("path", "max_rejected", "require_complete")


@dataclass(frozen=True, slots=True)
class ShardJob:
    """The videos of one shard; jobs are independent of each other."""

    split: Split
    index: int
    videos: tuple[Source, ...]


class Cut(Config):
    """Source of a clip: its video and the index of its first frame in that video."""

    video: str
    first_frame: Whole


class ShardReport(Config):
    """Result of a job as plain, picklable data. `shard` is None if the videos gave no clip."""

    split: Split
    index: Whole
    videos: Whole
    shard: Shard | None
    clips: tuple[Cut, ...]
    rejections: tuple[Finding, ...]
    doubts: tuple[Finding, ...]  # suspicious videos, which were cut nevertheless
    digests: dict[str, str]  # video that was cut -> sha256 of all its frames
    lengths: dict[str, Count]  # video that was cut -> number of its frames
    readings: tuple[Reading, ...]  # how each video that was cut was read


def entry(config: DatasetConfig) -> Entry:
    """Return the cache entry that holds the finished shards of a data set until all shards are finished."""
    inputs = {"path": config.path, "cut": content(config)}  # not the videos: a changed one affects its shard alone
    return Cache.here().entry("clips", inputs, code.fingerprint(__file__))


def jobs(found: Sequence[Source], config: DatasetConfig) -> tuple[ShardJob, ...]:
    """Return the jobs, each of at most `config.shard` videos of one split, ordered by split and video name.

    Raises InputError if the reader of `config` is not installed.
    """
    video.check(config.decoding.reader)
    pieces = []
    for split in SPLITS:
        videos = sorted((source for source in found if source.split == split), key=lambda source: source.name)
        starts = range(0, len(videos), config.shard)
        pieces += [
            ShardJob(split, index, tuple(videos[start : start + config.shard])) for index, start in enumerate(starts)
        ]
    return tuple(pieces)


class _Cutter:
    """Cuts the clips of one video as its frames arrive, and holds only the frames that the next clip needs."""

    def __init__(self, config: DatasetConfig, spool: shards.Spool, kept: int) -> None:
        self._config, self._spool, self._kept = config, spool, kept
        self.begin()

    def begin(self) -> video.Take:
        """Start or restart the video. Its clips are removed from the spool; those of earlier videos stay."""
        self._spool.back(self._kept)
        self._held: UInt8[Tensor, "f c h w"] | None = None
        self._begin = 0  # index of the first frame in `_held`
        self._next = 0  # index of the next clip's first frame
        self._digest = hashlib.sha256()
        self.first_frames: list[int] = []
        return self.take

    @property
    def digest(self) -> str:
        """The sha256 of all frames taken so far."""
        return self._digest.hexdigest()

    def take(self, frames: UInt8[Tensor, "f c h w"]) -> None:
        """Take the next frames of the video and append the clips that they complete to the spool."""
        self._digest.update(frames.numpy().data)
        held = frames if self._held is None else torch.cat([self._held, frames])
        span = _span(self._config)
        while self._next + span <= self._begin + len(held):
            start = self._next - self._begin
            self._spool.append(held[None, start : start + span : self._config.stride])
            self.first_frames.append(self._next)
            self._next += self._config.step
        unneeded = min(self._next - self._begin, len(held))
        self._held, self._begin = held[unneeded:], self._begin + unneeded


def write_shard(job: ShardJob, config: DatasetConfig, state: Path) -> ShardReport:
    """Decode the videos of a job, each once and in order, and write their clips as one shard of uint8 "b f c h w".

    Returns the job's report and writes it beside the complete shard, where `finished` reads it. Raises InputError if
    a file cannot be written.
    """
    stamp = _stamp(job, config)
    cuts: list[Cut] = []
    rejections: list[Finding] = []
    doubts: list[Finding] = []
    digests: dict[str, str] = {}
    lengths: dict[str, Count] = {}
    readings: list[Reading] = []
    with shards.spool(state, job.split, job.index) as spool:
        for source in job.videos:
            cutter = _Cutter(config, spool, kept=len(cuts))
            try:
                facts = source.scan(config.decoding, cutter.begin)
            except InputError as error:
                spool.back(len(cuts))
                reason = _reason(error, source)
                rejections.append(Finding(kind="broken", split=job.split, video=source.name, reason=reason))
                continue
            if not cutter.first_frames:
                reason = _too_short(facts.count, config)
                rejections.append(Finding(kind="short", split=job.split, video=source.name, reason=reason))
                continue
            doubts += [
                Finding(kind="suspicious", split=job.split, video=source.name, reason=r)
                for r in dataset_report.doubts(facts)
            ]
            cuts += [Cut(video=source.name, first_frame=first) for first in cutter.first_frames]
            digests[source.name], lengths[source.name] = cutter.digest, facts.count
            readings.append(Reading.of(source.name, job.split, facts))
        shard = spool.close() if cuts else None
    report = ShardReport(
        split=job.split,
        index=job.index,
        videos=len(job.videos),
        shard=shard,
        clips=tuple(cuts),
        rejections=tuple(rejections),
        doubts=tuple(doubts),
        digests=digests,
        lengths=lengths,
        readings=tuple(readings),
    )
    write_json(_journal(state, job), {"stamp": stamp, "report": configs.plain(report)}, sort_keys=True)
    return report


def finished(job: ShardJob, config: DatasetConfig, state: Path) -> ShardReport | None:
    """Return the report of an earlier run of the job; None if it is missing or stale, or the shard is damaged."""
    path = _journal(state, job)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["stamp"] != _stamp(job, config):
            return None
        report = configs.parse(ShardReport, content["report"], where=str(path))
        whole = report.shard is None or sha256(state / report.shard.file) == report.shard.sha256
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None
    return report if whole else None


def _journal(state: Path, job: ShardJob) -> Path:
    return state / f"{job.split}-{job.index:05d}.json"


def _stamp(job: ShardJob, config: DatasetConfig) -> str:
    """Return the identity of a job: a hash of the settings, the readers and every video's name, size and mtime."""
    videos, readers = [_state_of(source) for source in job.videos], video.versions()
    return configs.fingerprint({"cut": content(config), "readers": readers, "videos": videos})


def _state_of(source: Source) -> list[Any]:
    try:
        facts = source.path.stat()
    except OSError:  # a broken link, or a folder without permission
        return [repr(source), None, None]
    return [repr(source), facts.st_size, facts.st_mtime_ns]


def content(config: DatasetConfig) -> dict[str, Any]:
    """Return the settings of a data set that determine the content of its clips."""
    return {name: choice for name, choice in configs.plain(config).items() if name not in _NOT_CONTENT}


def _reason(error: InputError, source: Source) -> str:
    """Return the error's message without path and advice: the report lists the video's name beside the reason."""
    return str(error).removeprefix(f"{source.path} ").partition("; ")[0]


def _span(config: DatasetConfig) -> int:
    return (config.frames - 1) * config.stride + 1


def _too_short(count: int, config: DatasetConfig) -> str:
    spaced = f" ({config.frames} of every {config.stride})" if config.stride > 1 else ""
    return f"has {count} {'frame' if count == 1 else 'frames'}, but a clip needs {_span(config)}{spaced}"


def finish(
    out: Path,
    state: Path,
    reports: Iterable[ShardReport],
    collection: Collection,
    config: DatasetConfig,
    texts: Mapping[str, str] | None = None,
    table: actions.Table | None = None,
) -> dict[str, float]:
    """Link the shards of `state` into `out` and write the index, the annotations, the video report and the manifest.

    `texts` maps each video to its caption or label, or is None if the data set has none. `table` holds the actions of
    the frames of each video, or is None. If two splits have videos with equal frames, only one split keeps its video.
    The written bytes do not depend on the order of the reports.

    Returns the numbers of videos and clips and the size of the shards as metrics. Raises InputError if more than
    `max_rejected` of the videos are rejected, or if a split with videos has no clip; rejected.json and rejected.html
    are written first.
    """
    reports = sorted(reports, key=lambda report: (SPLITS.index(report.split), report.index))
    leaked, repeated = _duplicates(reports)
    summary = dataset_report.Findings(
        videos=sum(report.videos for report in reports),
        rejected=tuple(finding for report in reports for finding in report.rejections) + leaked,
        doubtful=tuple(finding for report in reports for finding in report.doubts) + repeated,
    )
    readings = [reading for report in reports for reading in report.readings]
    dataset_report.write(out, summary, collection, readings)
    excluded = {finding.video for finding in leaked}
    kept = [_without(report, excluded) for report in reports]
    dataset_report.check(out, summary, _left(kept), config.max_rejected)
    present = shards.ordered(_moved(report, rows, state, out) for report, rows in kept)
    counts = shards.counts(present)
    left_reports = [report for report, _ in kept]
    files = {clips.INDEX: _write_index(out, left_reports, config.stride)}
    files |= dataset_report.write_readings(out, readings)
    if texts is not None:
        files |= captions.write(out, {split: [texts[cut.video] for cut in cuts] for split, cuts in _cuts(left_reports)})
    if table is not None:
        files |= actions.write(out, _actions(left_reports, table, config))
    manifest = ClipsManifest(
        shards=present,
        counts=counts,
        files=files,
        frames=config.frames,
        size=config.resolution,
        channels="rgb",
        cut=content(config),
    )
    shards.write_manifest(out, manifest)
    return {
        **dataset_report.numbers(summary, collection),
        **{f"clips_{split}": float(count) for split, count in counts.items()},
        "megabytes": sum(shard.bytes for shard in present) / 1e6,
    }


def _left(kept: Iterable[tuple[ShardReport, list[int]]]) -> dict[Split, int]:
    """Return how many clips remain in each split that has videos."""
    left: dict[Split, int] = {}
    for report, rows in kept:
        left[report.split] = left.get(report.split, 0) + len(rows)
    return left


def _cuts(reports: Sequence[ShardReport]) -> list[tuple[Split, list[Cut]]]:
    """Return the clips of each split, in order."""
    return [(split, [cut for report in reports if report.split == split for cut in report.clips]) for split in SPLITS]


def _actions(reports: Sequence[ShardReport], table: actions.Table, config: DatasetConfig) -> actions.Stored:
    """Return the actions of all clips. Raises InputError unless the CSV file has one line per frame of each video."""
    for report in reports:
        for name, frames in report.lengths.items():
            actions.check_length(table, name, frames)
    stored = {}
    for split, cuts in _cuts(reports):
        rows = [actions.cut(table.videos[cut.video], cut.first_frame, config.frames, config.stride) for cut in cuts]
        stored[str(split)] = torch.stack(rows) if rows else torch.zeros(0, config.frames, len(table.columns))
    return actions.Stored(table.columns, stored)


def repaired(folder: Path, manifest: ClipsManifest, videos: Path, damaged: Shard, aside: Path) -> Shard:
    """Cut one damaged shard of a finished folder again, from the videos in the folder `videos`, into `aside`.

    Returns the new shard, whose sha256 equals the manifest's. Raises InputError if the videos of the shard are missing
    or have changed, or if the shard cannot be written.
    """
    choices = {**manifest.cut, "path": str(videos), "max_rejected": 1.0}
    if manifest.cut["kind"] != "folder":
        choices["require_complete"] = False
    config = configs.parse(_Dataset, {"dataset": choices}, where=str(folder / shards.MANIFEST)).dataset
    work = {(job.split, job.index): job for job in jobs(sources.find(config).videos, config)}
    if job := work.get((damaged.split, damaged.index)):
        report, listed = write_shard(job, config, aside / "state"), clips.listed(folder, damaged)
        rows = [row for row, cut in enumerate(report.clips) if (cut.video, cut.first_frame) in listed]
        made = _moved(report, rows, aside / "state", aside)
        if made is not None and made.sha256 == damaged.sha256:
            return made
    raise InputError(
        f"{folder / damaged.file} cannot be cut again: the videos in {videos} have changed; "
        "restore them, or run `dvc repro` to cut all clips again"
    )


class _Dataset(Config):
    dataset: AnyDataset


def _duplicates(reports: Sequence[ShardReport]) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Return the duplicates of videos in another split, to be rejected, and those of videos in the same split.

    Of equal videos in several splits, the one in the last split stays (test before val before train), so that the
    scored splits stay complete.
    """
    alike: dict[str, list[tuple[Split, str]]] = {}
    for report in reports:
        for name, digest in report.digests.items():
            alike.setdefault(digest, []).append((report.split, name))
    leaked, repeated = [], []
    for twins in alike.values():
        home = max((split for split, _ in twins), key=SPLITS.index)
        first = next(name for split, name in twins if split == home)
        for split, name in twins:
            if split != home:
                reason = f"has the same frames as {first} in {home}, which keeps it"
                leaked.append(Finding(kind="duplicate", split=split, video=name, reason=reason))
            elif name != first:
                reason = f"has the same frames as {first} in {home}"
                repeated.append(Finding(kind="duplicate", split=split, video=name, reason=reason))
    return tuple(leaked), tuple(repeated)


def _without(report: ShardReport, gone: set[str]) -> tuple[ShardReport, list[int]]:
    """Return the report without the clips of the videos in `gone`, and the remaining rows of its shard."""
    rows = [row for row, cut in enumerate(report.clips) if cut.video not in gone]
    return report.model_copy(update={"clips": tuple(report.clips[row] for row in rows)}), rows


def _moved(report: ShardReport, rows: list[int], state: Path, out: Path) -> Shard | None:
    """Write the report's shard to `out` with only these rows and return it; None if there are no rows."""
    if report.shard is None or not rows:
        return None
    if len(rows) == report.shard.rows:
        shards.place(state / report.shard.file, out)
        return report.shard
    with shards.spool(out, report.split, report.index) as spool:
        for row in shards.some(state / report.shard.file, rows):
            spool.append(row)
        return spool.close()


def _write_index(out: Path, reports: Sequence[ShardReport], stride: int) -> str:
    """Write clips.csv, the index of clips, one line per clip. Return its sha256.

    `clip` counts within a split and `row` within a shard. `scored` is a clip's rank in the order in which protocols
    score its split: for every model, a protocol of 256 clips scores the clips with ranks 0 to 255.
    """
    rows: list[tuple[object, ...]] = []
    for split in SPLITS:
        chosen = [report for report in reports if report.split == split]
        own = [(report.index, row, cut) for report in chosen for row, cut in enumerate(report.clips)]
        order = selection.ranked([f"{cut.video}@{cut.first_frame}" for _, _, cut in own])
        ranks = dict(zip(order, range(len(order)), strict=True))
        for number, (shard, row, cut) in enumerate(own):
            rows.append((number, split, shard, row, cut.video, cut.first_frame, stride, ranks[number]))
    return write_text(out / clips.INDEX, csv_files.to_csv(clips.COLUMNS, rows))
