"""What all sources of videos share: how clips are cut, the videos that were found, and those that ought to be there."""

import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, PositiveInt

from components.config import Config
from components.data import video
from components.data.shards import SPLITS, Split
from components.errors import InputError
from components.randomness import derive

_DRAWS: Final = 2**63  # `derive` is uniform in [0, 2^63)
Share = Annotated[float, Field(ge=0, lt=1)]


class Finding(Config):
    """A video, and what is to be said of it in a few words; `split` is None where it belongs to none."""

    kind: Literal["broken", "short", "duplicate", "suspicious", "missing", "left out"]
    split: Split | None
    video: str
    reason: str


class Facts(Config):
    """What is known of a published data set, for the report and for the check of its completeness."""

    name: str
    licence: str
    citation: str
    home: str
    counts: dict[str, int]  # videos of each official part


@dataclass(frozen=True, slots=True)
class Source:
    """One video of one split; `name` is its path in the data set's folder, with forward slashes."""

    split: Split
    name: str
    path: Path

    def scan(self, size: tuple[int, int], take: video.Take) -> video.Facts:
        """Hands over its frames, resized and cropped to `size` (height, width) in pixels, in order, a few at a time.

        Raises InputError for a bad one, which may be after some frames.
        """
        return video.scan(self.path, size, take)


@dataclass(frozen=True, slots=True)
class Collection:
    """The videos of a data set by split and name, and what is to be said of those that are not among them."""

    videos: tuple[Source, ...]
    missing: tuple[Finding, ...]  # listed by the data set, but not there
    left_out: tuple[Finding, ...]  # there, but in no split
    facts: Facts | None  # None is a user's own folder
    parts: dict[str, int]  # videos that are there of each official part

    @property
    def complete(self) -> bool:
        """Whether nothing that is listed is missing, and a published data set has as many videos as it ought to."""
        return not self.missing and (self.facts is None or self.facts.counts == self.parts)

    def counted(self) -> str:
        """The numbers behind `complete`, in words."""
        if self.facts is None:
            return f"{len(self.missing)} listed videos are missing"
        parts = [f"{part} {self.parts[part]} of {count}" for part, count in self.facts.counts.items()]
        return f"{', '.join(parts)} videos, {len(self.missing)} listed ones missing"


class Cutting(Config):
    """How clips are cut out of the videos in the folder `path`.

    A clip is `frames` frames, every `stride`-th of the video; from one clip's first frame to the next it is `step`
    frames of the video. A shard of `shard` videos is one job; of it a clip and some frames are in memory at a time.
    """

    path: str
    frames: PositiveInt
    stride: PositiveInt
    step: PositiveInt
    resolution: tuple[PositiveInt, PositiveInt]  # height, width in pixels
    shard: PositiveInt
    max_rejected: Annotated[float, Field(ge=0, le=1)]  # share of the videos; more fail the stage
    words: str | None  # a csv in the folder: columns video and caption, or video and label

    @property
    def folder(self) -> Path:
        """Where the videos lie. Raises InputError if it is missing or no folder."""
        folder = Path(self.path).expanduser()
        if not folder.exists():
            raise InputError(f"the folder of videos {folder} does not exist; correct the data set's path")
        if not folder.is_dir():
            raise InputError(f"{folder} is a file, not a folder of videos; correct the data set's path")
        return folder

    @abstractmethod
    def find(self) -> Collection:
        """The videos in the folder, and what is missing or left out there. Raises InputError for an unusable folder."""


class Published(Cutting):
    """A data set in its official layout: with `require_complete`, a wrong number of videos is an error."""

    require_complete: bool


def collect(
    folder: Path,
    videos: Iterable[Source],
    *,
    missing: Sequence[Finding] = (),
    left_out: Sequence[Finding] = (),
    facts: Facts | None = None,
    parts: Mapping[str, int] | None = None,
) -> Collection:
    """A collection in its fixed order. Raises InputError if nothing is left to train."""
    ordered = tuple(sorted(videos, key=lambda source: (SPLITS.index(source.split), source.name)))
    if not any(source.split == "train" for source in ordered):
        raise InputError(f"no video in {folder} is left for the split train; change the data set's split or add videos")
    return Collection(ordered, tuple(missing), tuple(left_out), facts, dict(parts or {}))


def drawn(name: str, shares: Mapping[Split, float]) -> Split:
    """The split of a name by a hash of it, train where no share takes it: other names do not matter."""
    number = derive("split", name) / _DRAWS
    for split, share in shares.items():
        if number < share:
            return split
        number -= share
    return "train"


def walk(folder: Path, suffixes: frozenset[str]) -> tuple[list[Path], list[Finding]]:
    """Files with these endings in a folder and below, in a fixed order, and the links that were not followed.

    Hidden files are left out and links are followed, but a loop of links is entered once in each top-level folder.
    Raises InputError if a folder cannot be read.
    """
    home = os.path.realpath(folder)
    seen: set[tuple[str, str]] = set()
    paths, loops = [], []
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        top, real = os.path.relpath(place, folder).split(os.sep)[0], os.path.realpath(place)
        if (top, real) in seen or (top != os.curdir and real == home):
            reason = "is a link to a folder that is read already and was not entered again"
            loops.append(
                Finding(kind="left out", split=None, video=name(Path(place).relative_to(folder)), reason=reason)
            )
            folders.clear()
            continue
        seen.add((top, real))
        folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
        paths += [Path(place, entry) for entry in sorted(files) if _wanted(entry, suffixes)]
    return paths, loops


def _wanted(entry: str, suffixes: frozenset[str]) -> bool:
    return not entry.startswith(".") and Path(entry).suffix.lower() in suffixes


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read ({error.strerror}); give access to it or move it away") from None


def name(relative: Path) -> str:
    """A path as text that every file format can hold, even where its bytes are no UTF-8."""
    return relative.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def read_lines(path: Path) -> list[str]:
    """The lines of a list that are not blank. Raises InputError if it is missing or no text."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InputError(f"the list {path} does not exist; put it there or correct the data set's split") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the list {path} cannot be read ({error}); replace it by a text file") from None
    return [line.strip() for line in lines if line.strip()]
