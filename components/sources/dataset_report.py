"""Report on a data set's videos: which were rejected, suspicious, missing or ignored, and the reader of each."""

import collections
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from components.datasets.shards import SPLITS, Split
from components.datasets.written import csv_files
from components.foundation import config as configs
from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.files import write_json, write_text
from components.foundation.settings.ranges import Count
from components.sources.collection import Collection
from components.sources.folders import Finding
from components.video.video import Facts

READINGS: Final = "videos.csv"
# share of frames equal to the one before; more is suspicious, but not rejected, because still scenes exist
_MOST_REPEATED: Final = 0.25
_STYLE = (
    "body{font:15px/1.5 sans-serif;margin:2rem}table{border-collapse:collapse}"
    "td,th{border-bottom:1px solid #ccc;padding:.3rem 1rem;text-align:left}"
)


class Reading(Config):
    """The reader of a video and the reason for it, the number of frames, and the frame rate."""

    video: str
    split: Split
    reader: str
    reason: str  # why this reader
    frames: Count
    rate: str  # frames per second of the file, "variable" and its mean, or "unknown"

    @classmethod
    def of(cls, name: str, split: Split, facts: Facts) -> "Reading":
        """Return the record of the video `name`."""
        rate = f"{facts.fps:g}" if facts.fps else "unknown"
        rate = rate if facts.steady else f"variable, {rate} on average"
        return cls(video=name, split=split, reader=facts.reader, reason=facts.reason, frames=facts.count, rate=rate)


@dataclass(frozen=True, slots=True)
class Findings:
    """Problems found while the videos were decoded and cut; `videos` is the number of all videos."""

    videos: int
    rejected: tuple[Finding, ...]  # no clip of them is used
    doubtful: tuple[Finding, ...]  # suspicious, but used


def doubts(facts: Facts) -> list[str]:
    """Return the reasons why a video is suspicious although it decodes."""
    reasons = list(facts.doubts)
    if facts.repeated > _MOST_REPEATED:
        reasons.append(f"repeats {facts.repeated:.0%} of its frames")
    if len(facts.sizes) > 1:
        reasons.append(f"changes its resolution: {', then '.join(f'{w} x {h}' for h, w in facts.sizes)}")
    return reasons


def write(out: Path, findings: Findings, collection: Collection, readings: Sequence[Reading]) -> None:
    """Write out/rejected.json and out/rejected.html. Raises InputError if a file cannot be written."""
    readers = _counted(f"{reading.reader}: {reading.reason}" for reading in readings)
    rates = _counted(reading.rate.partition(",")[0] for reading in readings)
    content = {
        "videos": findings.videos,
        "dataset": None if collection.facts is None else configs.plain(collection.facts),
        "found": collection.parts,
        "complete": "yes" if collection.complete else "no",
        "counted": collection.counted(),
        "rejected": [configs.plain(finding) for finding in findings.rejected],
        "doubtful": [configs.plain(finding) for finding in findings.doubtful],
        "missing": [configs.plain(finding) for finding in collection.missing],
        "left_out": [configs.plain(finding) for finding in collection.left_out],
        "readers": readers,
        "rates": rates,
    }
    write_json(out / "rejected.json", content, sort_keys=True)
    page = (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Videos</title>\n'
        f"<style>{_STYLE}</style>\n"
        f"<h1>{len(findings.rejected)} of {findings.videos} videos are rejected</h1>\n{_dataset(collection)}"
        f"{_table(findings.rejected)}"
        f"<h2>{len(findings.doubtful)} doubts about videos that are used</h2>\n{_table(findings.doubtful)}"
        f"<h2>{len(collection.missing)} listed videos are missing</h2>\n{_table(collection.missing)}"
        f"<h2>{len(collection.left_out)} files and folders are left out</h2>\n{_table(collection.left_out)}"
        f"<h2>Readers</h2>\n<p>{READINGS} names the reader of each video.</p>\n{_counts('reader', readers)}"
        f"<h2>Frame rates of the files</h2>\n{_counts('frames a second', rates)}</html>\n"
    )
    write_text(out / "rejected.html", page)


def write_readings(out: Path, readings: Sequence[Reading]) -> dict[str, str]:
    """Write the records of all videos as a CSV file. Return its name and its sha256."""
    rows = [tuple(configs.plain(reading).values()) for reading in readings]
    return {READINGS: write_text(out / READINGS, csv_files.to_csv(Reading.model_fields, rows))}


def numbers(findings: Findings, collection: Collection) -> dict[str, float]:
    """Return the counts of the report as metrics."""
    kinds = collections.Counter(finding.kind for finding in findings.rejected)
    return {
        "videos": float(findings.videos),
        "videos_rejected": float(len(findings.rejected)),
        "videos_short": float(kinds["short"]),
        "videos_duplicate": float(kinds["duplicate"]),
        "videos_doubtful": float(len({finding.video for finding in findings.doubtful})),
        "videos_missing": float(len(collection.missing)),
        "videos_left_out": float(len(collection.left_out)),
        "complete": float(collection.complete),
    }


def check(out: Path, findings: Findings, clips_left: Mapping[Split, int], most: float) -> None:
    """Raise InputError if more than the share `most` of the videos is rejected, or a split with videos has no clip.

    `clips_left` is the number of clips of each split with videos.
    """
    kinds = collections.defaultdict(list)
    for finding in findings.rejected:
        kinds[re.sub(r"\d+", "0", finding.reason)].append(finding)
    commonest = max(kinds.values(), key=len, default=[])
    like = (
        f", most often ({len(commonest)} times) for the same reason as {commonest[0].video}, which "
        f"{commonest[0].reason}"
        if commonest
        else ""
    )
    rejected = f"{len(findings.rejected)} of {findings.videos} videos are rejected{like}"
    advice = f"see {out / 'rejected.html'} and repair or remove these videos"
    for split in SPLITS:
        if clips_left.get(split) == 0:
            raise InputError(f"no clip is left for the split {split}: {rejected}; {advice}")
    if len(findings.rejected) > most * findings.videos:
        raise InputError(f"{rejected}, but max_rejected allows a share of {most:g}; {advice}, or raise max_rejected")


def _dataset(collection: Collection) -> str:
    if collection.facts is None:
        return ""
    facts = collection.facts
    lines = {
        "data set": facts.name,
        "complete": f"{'yes' if collection.complete else 'no'}: {collection.counted()}",
        "licence": facts.licence,
        "citation": facts.citation,
        "download from": facts.home,
    }
    return _rows(f"<tr><th>{name}</th><td>{html.escape(line)}</td></tr>\n" for name, line in lines.items())


def _counted(names: Iterable[str]) -> dict[str, int]:
    """Return how often each name occurs, the commonest first."""
    return dict(sorted(collections.Counter(names).items(), key=lambda item: (-item[1], item[0])))


def _counts(name: str, counts: dict[str, int]) -> str:
    lines = [f"<tr><td>{html.escape(key)}</td><td>{count}</td></tr>\n" for key, count in counts.items()]
    return _rows([f"<tr><th>{name}</th><th>videos</th></tr>\n", *lines])


def _table(found: Sequence[Finding]) -> str:
    if not found:
        return "<p>None.</p>\n"
    lines = [
        f"<tr><td>{html.escape(finding.video)}</td><td>{finding.split or '–'}</td><td>{finding.kind}</td>"
        f"<td>{html.escape(finding.reason)}</td></tr>\n"
        for finding in found
    ]
    return _rows(["<tr><th>video</th><th>split</th><th>kind</th><th>reason</th></tr>\n", *lines])


def _rows(lines: Iterable[str]) -> str:
    return f"<table>\n{''.join(lines)}</table>\n"
