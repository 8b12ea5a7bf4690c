"""Kinetics-600 in the layout of the Common Visual Data Foundation (CVDF): human actions, ten seconds per video.

Licence: the annotations are CC BY 4.0; the videos belong to those who uploaded them to YouTube. Citation: Carreira,
Noland, Banki-Horvath, Hillier, Zisserman, "A Short Note about Kinetics-600", 2018 (arXiv:1808.01340). Download:
github.com/cvdfoundation/kinetics-dataset (k600_downloader.sh, k600_extractor.sh), about 780 GB. Expected layout:
train/, val/ and test/ with <youtube_id>_<start:06d>_<end:06d>.mp4, sub-folders allowed, and annotations/<split>.txt or
.csv with the comma-separated columns youtube_id, time_start and time_end. A .txt file takes precedence, because
CVDF's .txt files are the complete ones. CVDF's copy has 427549, 29793 and 72924 videos (FiftyOne's data set zoo).
"""

import csv
import re
from collections import defaultdict
from pathlib import Path
from typing import Final, Literal

from components.datasets.shards import SPLITS, Split
from components.foundation.errors import InputError
from components.sources import collection, folders
from components.sources.collection import Collection, Facts, FromFiles, Published, Source
from components.sources.folders import Finding

Key = tuple[str, int, int]  # YouTube id, first and last second
NAME: Final = re.compile(r"(.+)_(\d{6})_(\d{6})")
COLUMNS: Final = ("youtube_id", "time_start", "time_end")
FACTS: Final = Facts(
    name="Kinetics-600",
    licence="annotations CC BY 4.0; the videos belong to those who uploaded them to YouTube",
    citation="Carreira et al., A Short Note about Kinetics-600, 2018",
    home="github.com/cvdfoundation/kinetics-dataset",
    counts={"train": 427_549, "val": 29_793, "test": 72_924},
)


class Kinetics600Config(FromFiles, Published):
    """Kinetics-600 in a folder with train/, val/, test/ and annotations/."""

    kind: Literal["kinetics600"]

    def find(self) -> Collection:
        """Return the annotated videos.

        Raises InputError if a split's folder or annotations are missing or unreadable.
        """
        folder = self.folder
        videos: list[Source] = []
        missing: list[Finding] = []
        left_out: list[Finding] = []
        for split in SPLITS:
            annotated = _annotated(self.inside("annotations"), split)
            there, others = _there(folder, split)
            left_out += others
            for key, path in there.items():
                name = folders.name(path.relative_to(folder))
                if key in annotated:
                    videos.append(Source(split, name, path))
                else:
                    left_out.append(
                        Finding(kind="left out", split=split, video=name, reason="is not in the annotations")
                    )
            missing += [
                Finding(
                    kind="missing",
                    split=split,
                    video=f"{split}/{name}_{start:06d}_{end:06d}.mp4",
                    reason="is annotated, but not in the folder",
                )
                for name, start, end in annotated
                if (name, start, end) not in there
            ]
        videos, leaked = _apart(videos)
        parts: dict[str, int] = {split: sum(source.split == split for source in videos) for split in SPLITS}
        return collection.collect(folder, videos, missing=missing, left_out=left_out + leaked, facts=FACTS, parts=parts)


def _annotated(folder: Path, split: Split) -> dict[Key, None]:
    """Return the videos that a split's annotations name, in order."""
    files = [folder / f"{split}{suffix}" for suffix in (".txt", ".csv")]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        raise InputError(f"neither {files[0]} nor {files[1]} exists; put the annotations of {FACTS.name} there")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return {
                (line["youtube_id"], round(float(line["time_start"])), round(float(line["time_end"]))): None
                for line in csv.DictReader(file)
            }
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read as a table with the columns {', '.join(COLUMNS)} ({error!r}); download it again"
        ) from None


def _there(folder: Path, split: Split) -> tuple[dict[Key, Path], list[Finding]]:
    """Return the videos in a split's folder, and the files left out for a wrong or repeated name."""
    if not folders.inside(folder, split).is_dir():
        raise InputError(f"{folder / split} is not a folder; unpack the archives of {FACTS.name} there")
    paths, others = folders.walk(folder / split, collection.other_than(".mp4", FACTS.name), home=folder)
    there: dict[Key, Path] = {}
    for path in paths:
        named = NAME.fullmatch(path.stem)
        told = folders.name(path.relative_to(folder))
        if named is None:
            reason = "is not named <youtube_id>_<start>_<end>.mp4"
            others.append(Finding(kind="left out", split=split, video=told, reason=reason))
            continue
        first = there.setdefault((named[1], int(named[2]), int(named[3])), path)
        if first is not path:
            reason = f"has the same name as {folders.name(first.relative_to(folder))}"
            others.append(Finding(kind="left out", split=split, video=told, reason=reason))
    return there, others


def _apart(videos: list[Source]) -> tuple[list[Source], list[Finding]]:
    """Return the videos that stay, and those left out because a later split has parts of the same YouTube video.

    All parts of one YouTube video stay in one split: test before val before train.
    """
    films: dict[str, set[Split]] = defaultdict(set)
    for source in videos:
        films[_film(source)].add(source.split)
    home = {film: max(splits, key=SPLITS.index) for film, splits in films.items()}
    kept = [source for source in videos if home[_film(source)] == source.split]
    leaked = [
        Finding(
            kind="left out",
            split=source.split,
            video=source.name,
            reason=f"is part of a YouTube video that {home[_film(source)]} has too",
        )
        for source in videos
        if home[_film(source)] != source.split
    ]
    return kept, leaked


def _film(source: Source) -> str:
    named = NAME.fullmatch(source.path.stem)
    assert named is not None
    return named[1]
