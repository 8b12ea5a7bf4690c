"""Base classes of all video sources: settings for cutting clips, the videos found, and completeness checks."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import model_validator

from components.datasets.shards import SPLITS, Split
from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.randomness import derive
from components.foundation.settings.ranges import Count, Fraction, Positive, Whole
from components.sources import folders
from components.sources.folders import Finding
from components.video import video

_DRAWS: Final = 2**63  # `derive` is uniform in [0, 2^63)


class Facts(Config):
    """Metadata of a published data set, for the report and the completeness check."""

    name: str
    licence: str
    citation: str
    home: str
    counts: dict[str, Whole]  # videos of each official part


@dataclass(frozen=True, slots=True)
class Source:
    """One video of one split; `name` is its path relative to the data set's folder, with forward slashes."""

    split: Split
    name: str
    path: Path

    def scan(self, how: video.Decoding, begin: video.Begin) -> video.Facts:
        """Decode the video, pass its frames on in order in chunks, and return the video's metadata.

        `begin()` returns the function that receives the frames. If the file must be read a second time, `begin` is
        called again and the earlier frames are invalid. Raises InputError for a bad video, possibly after some frames
        were passed on.
        """
        return video.scan(self.path, how, begin)


@dataclass(frozen=True, slots=True)
class Collection:
    """The videos of a data set, ordered by split and name, and those that are missing or ignored."""

    videos: tuple[Source, ...]
    missing: tuple[Finding, ...]  # listed by the data set, but not found
    left_out: tuple[Finding, ...]  # found, but not used, for instance because they are in no split
    facts: Facts | None  # None for a user's own folder
    parts: dict[str, int]  # official part -> number of its videos that were found

    @property
    def complete(self) -> bool:
        """Whether no listed video is missing and every official part has its official number of videos."""
        return not self.missing and (self.facts is None or self.facts.counts == self.parts)

    def counted(self) -> str:
        """Return the numbers of found, expected and missing videos as text."""
        if self.facts is None:
            return f"{len(self.missing)} listed videos are missing"
        parts = [f"{part} {self.parts[part]} of {count}" for part, count in self.facts.counts.items()]
        return f"{', '.join(parts)} videos, {len(self.missing)} listed ones missing"


class Cutting(Config):
    """Settings for cutting clips from the videos in the folder `path`.

    A clip takes `frames` frames, every `stride`-th of its video. Successive clips start `step` video frames apart. Each
    job cuts `shard` videos into one shard; in memory it holds about one clip.
    """

    path: str  # folder of the videos, absolute or relative to the project
    frames: Count  # of a clip
    stride: Count  # a clip takes every stride-th frame of its video
    step: Count  # video frames from the start of a clip to the start of the next one
    resolution: tuple[Count, Count]  # height, width in pixels
    shard: Count  # videos whose clips share one file
    max_rejected: Fraction  # share of videos; a larger share fails the stage
    words: str | None  # a CSV file in the folder: columns video and caption, or video and label
    actions: str | None  # a CSV file in the folder: columns video, frame and at least one action, one line per frame

    @property
    def decoding(self) -> video.Decoding:
        """The decoding settings of the videos: frame size, reader and frame rate."""
        return video.Decoding(self.resolution, "auto", None)

    @property
    def folder(self) -> Path:
        """The folder of the videos. Raises InputError if the path does not exist, is not a folder or begins with ~."""
        folder = Path(self.path)
        if self.path.startswith("~"):
            raise InputError(
                f"the data set's path {self.path} begins with ~, which DVC does not expand; write {folder.expanduser()}"
            )
        if not folder.exists():
            raise InputError(f"the folder of videos {folder} does not exist; correct the data set's path")
        if not folder.is_dir():
            raise InputError(f"{folder} is a file, not a folder of videos; correct the data set's path")
        return folder

    def inside(self, *steps: str) -> Path:
        """Return the path of a file or folder in the data set, such as its captions file; it need not exist.

        Raises InputError if the path is outside of the data set's folder, hidden, or behind a link to a folder.
        """
        return folders.inside(self.folder, "/".join(steps))

    @abstractmethod
    def find(self) -> Collection:
        """Return the videos of the folder. Raises InputError if the folder is unusable."""


class FromFiles(Cutting):
    """Settings for data sets of video files.

    With `reader` auto, decord reads the files that it decodes correctly, and PyAV the others. `fps` converts all videos
    to one frame rate: each frame is the latest picture at its time.
    """

    reader: video.Reader  # auto: decord where it decodes the file correctly, else PyAV
    fps: Positive | None  # frames per second; null keeps every picture of each file

    @model_validator(mode="after")
    def _in_step(self) -> "FromFiles":
        if self.fps is not None and self.actions is not None:
            raise ValueError(
                "actions belong to the frames of the files, so fps must be null; set fps or actions to null"
            )
        return self

    @property
    def decoding(self) -> video.Decoding:
        """The decoding settings of the videos: frame size, reader and frame rate."""
        return video.Decoding(self.resolution, self.reader, self.fps)


class Published(Cutting):
    """A published data set in its official layout; `require_complete` makes an incomplete copy an error."""

    require_complete: bool  # whether a missing video is an error


def collect(
    folder: Path,
    videos: Iterable[Source],
    *,
    missing: Sequence[Finding] = (),
    left_out: Sequence[Finding] = (),
    facts: Facts | None = None,
    parts: Mapping[str, int] | None = None,
) -> Collection:
    """Return a collection in its fixed order. Raises InputError if the split train has no video."""
    ordered = tuple(sorted(videos, key=lambda source: (SPLITS.index(source.split), source.name)))
    if not any(source.split == "train" for source in ordered):
        raise InputError(
            f"no video in {folder} is left for the split train; change the data set's split settings or add videos"
        )
    return Collection(ordered, tuple(missing), tuple(left_out), facts, dict(parts or {}))


def other_than(suffix: str, dataset: str) -> Callable[[Path], str | None]:
    """Return a function that returns why a file is ignored in a data set whose videos all end in `suffix`."""
    return lambda path: None if path.suffix.lower() == suffix else f"does not end in {suffix}, as {dataset} does"


def drawn(name: str, shares: Mapping[Split, float]) -> Split:
    """Return the split of a video, by a hash of its name. `shares` maps splits to shares; train gets the rest."""
    number = derive("split", name) / _DRAWS
    for split, share in shares.items():
        if number < share:
            return split
        number -= share
    return "train"
