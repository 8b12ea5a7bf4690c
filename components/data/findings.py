"""The report of a data set's videos, as JSON and as a page: rejected and why, kept but doubtful, missing, left out."""

import collections
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from components import config as configs
from components.data import shards
from components.data.collection import Collection, Finding
from components.errors import InputError

_STYLE = (
    "body{font:15px/1.5 sans-serif;margin:2rem}table{border-collapse:collapse}"
    "td,th{border-bottom:1px solid #ccc;padding:.3rem 1rem;text-align:left}"
)


@dataclass(frozen=True, slots=True)
class Findings:
    """What the reading of so many videos brought to light."""

    videos: int
    rejected: tuple[Finding, ...]
    doubtful: tuple[Finding, ...]  # kept


def write(out: Path, told: Findings, collection: Collection) -> None:
    """Write rejected.json and rejected.html."""
    content = {
        "videos": told.videos,
        "dataset": None if collection.facts is None else configs.plain(collection.facts),
        "found": collection.parts,
        "complete": "yes" if collection.complete else "no",
        "counted": collection.counted(),
        "rejected": [configs.plain(finding) for finding in told.rejected],
        "doubtful": [configs.plain(finding) for finding in told.doubtful],
        "missing": [configs.plain(finding) for finding in collection.missing],
        "left_out": [configs.plain(finding) for finding in collection.left_out],
    }
    shards.write_json(out / "rejected.json", content)
    page = (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Videos</title>\n'
        f"<style>{_STYLE}</style>\n"
        f"<h1>{len(told.rejected)} of {told.videos} videos are rejected</h1>\n{_dataset(collection)}"
        f"{_table(told.rejected)}"
        f"<h2>{len(told.doubtful)} doubts about videos that are kept</h2>\n{_table(told.doubtful)}"
        f"<h2>{len(collection.missing)} listed videos are missing</h2>\n{_table(collection.missing)}"
        f"<h2>{len(collection.left_out)} files and folders are left out</h2>\n{_table(collection.left_out)}</html>\n"
    )
    shards.write_text(out / "rejected.html", page)


def numbers(told: Findings, collection: Collection) -> dict[str, float]:
    """The report in numbers."""
    kinds = collections.Counter(finding.kind for finding in told.rejected)
    return {
        "videos": float(told.videos),
        "videos_rejected": float(len(told.rejected)),
        "videos_short": float(kinds["short"]),
        "videos_duplicate": float(kinds["duplicate"]),
        "videos_doubtful": float(len({finding.video for finding in told.doubtful})),
        "videos_missing": float(len(collection.missing)),
        "videos_left_out": float(len(collection.left_out)),
        "complete": float(collection.complete),
    }


def check(out: Path, told: Findings, clips_left: int, most: float) -> None:
    """Raises InputError if more than a share `most` of the videos are rejected or no clip is left to train."""
    kinds = collections.defaultdict(list)
    for finding in told.rejected:
        kinds[re.sub(r"\d+", "0", finding.reason)].append(finding)
    commonest = max(kinds.values(), key=len, default=[])
    like = (
        f", most of them ({len(commonest)}) like {commonest[0].video}, which {commonest[0].reason}" if commonest else ""
    )
    rejected = f"{len(told.rejected)} of {told.videos} videos are rejected{like}"
    advice = f"see {out / 'rejected.html'} and repair or remove them"
    if not clips_left:
        raise InputError(f"no clip is left to train: {rejected}; {advice}")
    if len(told.rejected) > most * told.videos:
        raise InputError(f"{rejected}; max_rejected allows a share of {most:g}: {advice}, or raise it")


def _dataset(collection: Collection) -> str:
    if collection.facts is None:
        return ""
    facts = collection.facts
    lines = {
        "data set": facts.name,
        "complete": f"{'yes' if collection.complete else 'no'}: {collection.counted()}",
        "licence": facts.licence,
        "citation": facts.citation,
        "to be had from": facts.home,
    }
    return _rows(f"<tr><th>{name}</th><td>{html.escape(line)}</td></tr>\n" for name, line in lines.items())


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
