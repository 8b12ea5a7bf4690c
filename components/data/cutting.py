"""Clips cut out of videos, in shards made one by one, so that a run that was killed goes on where it was.

A clip is `frames` frames of a video, every `stride`-th, so it spans (frames - 1) stride + 1 frames of the video; clips
of a video start at frames 0, step, 2 step, ... as long as they fit.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import UInt8
from torch import Tensor

from components import config as configs
from components.config import Config
from components.data import clips, findings, selection, shards, sources, video, words
from components.data.clips import ClipsManifest
from components.data.collection import Collection, Finding, Source
from components.data.shards import SPLITS, Shard, Split
from components.data.sources import AnyDataset, DatasetConfig
from components.errors import InputError

# what does not change the clips: where the videos lie, and how many bad or missing ones are borne with
_NOT_CONTENT: Final = ("path", "max_rejected", "require_complete")
_MOST_REPEATED: Final = (
    0.25  # share of frames like the one before; more is doubtful, though a still scene may be genuine
)
_LENGTH_TOLERANCE: Final = 0.05  # of the frames that a length in seconds promises


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


class ShardReport(Config):
    """What became of a job: plain data, to be pickled or kept as JSON. `shard` is None where no video was good."""

    split: Split
    index: int
    videos: int
    shard: Shard | None
    clips: tuple[Cut, ...]
    rejections: tuple[Finding, ...]
    doubts: tuple[Finding, ...]  # of good videos
    digests: dict[str, str]  # good videos, and the sha256 of all their frames


def jobs(found: Sequence[Source], config: DatasetConfig) -> tuple[ShardJob, ...]:
    """The work in pieces of `config.shard` videos, by split and name."""
    pieces = []
    for split in SPLITS:
        videos = sorted((source for source in found if source.split == split), key=lambda source: source.name)
        starts = range(0, len(videos), config.shard)
        pieces += [
            ShardJob(split, index, tuple(videos[start : start + config.shard])) for index, start in enumerate(starts)
        ]
    return tuple(pieces)


class _Cutter:
    """Cuts the clips of one video while its frames come, and holds no more of them than the next clip needs."""

    def __init__(self, config: DatasetConfig, spool: shards.Spool) -> None:
        self._config, self._spool = config, spool
        self._held: UInt8[Tensor, "f c h w"] | None = None
        self._begin = 0  # the number of the first frame that is held
        self._next = 0  # that of the next clip's first frame
        self._digest = hashlib.sha256()
        self.first_frames: list[int] = []

    @property
    def digest(self) -> str:
        """The sha256 of all frames so far."""
        return self._digest.hexdigest()

    def take(self, frames: UInt8[Tensor, "f c h w"]) -> None:
        """The next frames."""
        self._digest.update(frames.numpy().data)
        held = frames if self._held is None else torch.cat([self._held, frames])
        span = _span(self._config)
        while self._next + span <= self._begin + len(held):
            start = self._next - self._begin
            self._spool.append(held[None, start : start + span : self._config.stride])
            self.first_frames.append(self._next)
            self._next += self._config.step
        gone = min(self._next - self._begin, len(held))
        self._held, self._begin = held[gone:], self._begin + gone


def write_shard(job: ShardJob, config: DatasetConfig, state: Path) -> ShardReport:
    """Decode the videos of a job, each once and in order, and write their clips as one shard of uint8 "b f c h w".

    What became of it stands beside the shard when that is whole, for `finished`. Raises InputError if it cannot be
    written.
    """
    stamp = _stamp(job, config)
    cuts: list[Cut] = []
    rejections: list[Finding] = []
    doubts: list[Finding] = []
    digests: dict[str, str] = {}
    with shards.spool(state, job.split, job.index) as spool:
        for source in job.videos:
            cutter = _Cutter(config, spool)
            try:
                facts = source.scan(config.resolution, cutter.take)
            except InputError as error:
                spool.back(len(cuts))
                reason = _reason(error, source)
                rejections.append(Finding(kind="broken", split=job.split, video=source.name, reason=reason))
                continue
            if not cutter.first_frames:
                reason = _too_short(facts.count, config)
                rejections.append(Finding(kind="short", split=job.split, video=source.name, reason=reason))
                continue
            doubts += [Finding(kind="suspicious", split=job.split, video=source.name, reason=r) for r in _doubts(facts)]
            cuts += [Cut(video=source.name, first_frame=first) for first in cutter.first_frames]
            digests[source.name] = cutter.digest
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
    )
    shards.write_json(_journal(state, job), {"stamp": stamp, "report": configs.plain(report)})
    return report


def finished(job: ShardJob, config: DatasetConfig, state: Path) -> ShardReport | None:
    """What became of a job that was done before for the same videos and choices by the same code; else None."""
    path = _journal(state, job)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["stamp"] != _stamp(job, config):
            return None
        report = configs.parse(ShardReport, content["report"], where=str(path))
        whole = report.shard is None or shards.sha256(state / report.shard.file) == report.shard.sha256
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None
    return report if whole else None


def _journal(state: Path, job: ShardJob) -> Path:
    return state / f"{job.split}-{job.index:05d}.json"


def _stamp(job: ShardJob, config: DatasetConfig) -> str:
    """What the clips of a job depend on: the choices, the code, and the files by name, size and time of writing."""
    return configs.fingerprint({"cut": _content(config), "code": _code(), "videos": [_state_of(s) for s in job.videos]})


def _state_of(source: Source) -> list[Any]:
    facts = source.path.stat() if source.path.exists() else None
    return [repr(source), facts and facts.st_size, facts and facts.st_mtime_ns]


def _code() -> str:
    """The text of this folder's modules."""
    texts = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()


def _content(config: DatasetConfig) -> dict[str, Any]:
    return {name: choice for name, choice in configs.plain(config).items() if name not in _NOT_CONTENT}


def _reason(error: InputError, source: Source) -> str:
    """What is wrong, without the path (the report names the video) and without the advice (there is one for all)."""
    return str(error).removeprefix(f"{source.path} ").partition("; ")[0]


def _span(config: DatasetConfig) -> int:
    return (config.frames - 1) * config.stride + 1


def _too_short(count: int, config: DatasetConfig) -> str:
    spaced = f" ({config.frames} of every {config.stride})" if config.stride > 1 else ""
    return f"has {count} {'frame' if count == 1 else 'frames'}, a clip needs {_span(config)}{spaced}"


def _doubts(facts: video.Facts) -> list[str]:
    """What may be wrong with a video that can be read."""
    told = []
    if facts.repeated > _MOST_REPEATED:
        told.append(f"repeats {facts.repeated:.0%} of its frames")
    promised, count = facts.duration * facts.fps, facts.count
    if promised and abs(count - promised) > max(1.5, _LENGTH_TOLERANCE * promised):
        told.append(f"has {count} frames, but its {facts.duration:.3g} s promise {promised:.0f}")
    if len(facts.sizes) > 1:
        told.append(f"changes its resolution: {', then '.join(f'{w} x {h}' for h, w in facts.sizes)}")
    return told


def finish(
    out: Path,
    state: Path,
    reports: Iterable[ShardReport],
    collection: Collection,
    config: DatasetConfig,
    about: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Put the shards of `state` into `out` too, and describe them: the same bytes for any order of the reports.

    `about` is what each video is about, where the data set tells it; then words.csv says it of each clip.

    A video whose frames are those of another in another split stays in one of the two. Returns the numbers of videos,
    clips and so on. Raises InputError, after rejected.json and rejected.html are written, if more than `max_rejected`
    of the videos are rejected or no clip is left to train.
    """
    reports = sorted(reports, key=lambda report: (SPLITS.index(report.split), report.index))
    leaked, repeated = _duplicates(reports)
    told = findings.Findings(
        videos=sum(report.videos for report in reports),
        rejected=tuple(finding for report in reports for finding in report.rejections) + leaked,
        doubtful=tuple(finding for report in reports for finding in report.doubts) + repeated,
    )
    findings.write(out, told, collection)
    gone = {finding.video for finding in leaked}
    kept = [_without(report, gone) for report in reports]
    left = sum(len(rows) for report, rows in kept if report.split == "train")
    findings.check(out, told, left, config.max_rejected)
    present = shards.ordered(_moved(report, rows, state, out) for report, rows in kept)
    counts = shards.counts(present)
    files = {clips.INDEX: _write_index(out, [report for report, _ in kept], config.stride)}
    if about is not None:
        told_of: dict[str, list[str]] = {
            split: [about[cut.video] for report, _ in kept if report.split == split for cut in report.clips]
            for split in SPLITS
        }
        files |= words.write(out, told_of)
    manifest = ClipsManifest(
        shards=present,
        counts=counts,
        files=files,
        frames=config.frames,
        size=config.resolution,
        channels="rgb",
        cut=_content(config),
    )
    shards.write_manifest(out, manifest)
    return {
        **findings.numbers(told, collection),
        **{f"clips_{split}": float(count) for split, count in counts.items()},
        "megabytes": sum(shard.bytes for shard in present) / 1e6,
    }


def repaired(folder: Path, manifest: ClipsManifest, videos: Path, damaged: Shard, aside: Path) -> Shard:
    """Cuts a shard of a finished folder once more out of the folder `videos`; it lies in `aside` then.

    Raises InputError if the videos of that shard are no longer there, or it cannot be written.
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
    raise InputError(f"{folder / damaged.file} cannot be made again: the videos in {videos} are not what they were")


class _Dataset(Config):
    dataset: AnyDataset


def _duplicates(reports: Sequence[ShardReport]) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Videos with the frames of another: in another split, where they may not stay, and in the same.

    The last split has them, test before val before train: what is scored stays as it was given.
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
    """A report without the clips of some videos, and the rows of its shard that are left."""
    rows = [row for row, cut in enumerate(report.clips) if cut.video not in gone]
    return report.model_copy(update={"clips": tuple(report.clips[row] for row in rows)}), rows


def _moved(report: ShardReport, rows: list[int], state: Path, out: Path) -> Shard | None:
    """The shard in its place, with these rows alone; None if there are none."""
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
    """Write clips.csv, the plan of clips, one line a clip. Returns its sha256.

    `clip` counts within a split and `row` within a shard. `scored` is the place of a clip in the order in which
    protocols score its split: one that scores 256 clips scores those with 0 to 255, whatever the model.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(clips.COLUMNS)
    for split in SPLITS:
        own = [
            (report.index, row, cut)
            for report in reports
            if report.split == split
            for row, cut in enumerate(report.clips)
        ]
        order = selection.ranked([f"{cut.video}@{cut.first_frame}" for _, _, cut in own])
        places = {index: place for place, index in enumerate(order)}
        for number, (shard, row, cut) in enumerate(own):
            writer.writerow((number, split, shard, row, cut.video, cut.first_frame, stride, places[number]))
    return shards.write_text(out / clips.INDEX, text.getvalue())
