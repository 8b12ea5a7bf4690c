"""BAIR robot pushing (softmotion30_44k) in its official TFRecords: a Sawyer arm pushes objects about, seen twice.

Licence: the archive states none; its makers' page is to be asked. Citation: Ebert, Finn, Lee, Levine, "Self-Supervised
Visual Planning with Temporal Skip Connections", CoRL 2017 (arXiv:1710.05268). To be had: bair_robot_pushing_dataset_v0
at rail.eecs.berkeley.edu, a tar archive of 30 GB. Expected: softmotion30_44k/train and /test with files
traj_<first>_to_<last>.tfrecords of up to 256 episodes each, 43264 and 256 in all; an episode is 30 frames of
64 x 64 x 3 raw bytes a camera, under the keys <frame>/<camera>/encoded. The literature predicts image_aux1.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from components.data import collection, tfrecords, video
from components.data.collection import Collection, Facts, Finding, Published, Share, Source
from components.data.shards import Split
from components.errors import InputError

Camera = Literal["image_main", "image_aux1"]
SIDE: Final = 64  # pixels
FRAMES: Final = 30
FACTS: Final = Facts(
    name="BAIR robot pushing",
    licence="the archive states none; ask its makers",
    citation="Ebert et al., Self-Supervised Visual Planning with Temporal Skip Connections, CoRL 2017",
    home="rail.eecs.berkeley.edu/datasets/bair_robot_pushing_dataset_v0.tar",
    counts={"train": 43_264, "test": 256},
)


@dataclass(frozen=True, slots=True)
class Episode(Source):
    """One record of a file, seen by one camera."""

    offset: int  # bytes
    camera: Camera

    def scan(self, size: tuple[int, int], take: video.Take) -> video.Facts:
        """Its frames. Raises InputError for a record that is cut off, damaged or without pictures of this camera."""
        try:
            features = tfrecords.byte_features(tfrecords.read(self.path, self.offset))
        except ValueError as error:
            raise InputError(f"{self.path} has no Example at byte {self.offset} ({error}); copy it again") from None
        return video.from_pictures(np.stack(list(self._pictures(features))), size, FRAMES, take)

    def _pictures(self, features: dict[str, bytes]) -> Iterator[np.ndarray]:
        frames = sorted(int(key.split("/")[0]) for key in features if re.fullmatch(rf"\d+/{self.camera}/encoded", key))
        if not frames or frames != list(range(len(frames))):
            what = "pictures of some frames only" if frames else "no pictures"
            raise InputError(f"{self.path} has {what} of {self.camera} at byte {self.offset}; copy it again")
        for frame in frames:
            picture = features[f"{frame}/{self.camera}/encoded"]
            if len(picture) != SIDE * SIDE * 3:
                told = f"frame {frame} of {len(picture)} bytes instead of {SIDE * SIDE * 3}"
                raise InputError(f"{self.path} has a {told} at byte {self.offset}; copy it again")
            yield np.frombuffer(picture, np.uint8).reshape(SIDE, SIDE, 3)


class BairConfig(Published):
    """The folder that holds train/ and test/, or softmotion30_44k/ with them; `val` is a share of the training set."""

    kind: Literal["bair"]
    camera: Camera
    val: Share

    def find(self) -> Collection:
        """Every episode. Raises InputError if train or test is missing, or holds no TFRecords."""
        folder = self.folder
        inner = folder / "softmotion30_44k"
        root = inner if inner.is_dir() else folder
        episodes: list[Episode] = []
        loops: list[Finding] = []
        parts = {}
        for part in FACTS.counts:
            if not (root / part).is_dir():
                raise InputError(f"{root / part} is not a folder; unpack the archive of {FACTS.name} there")
            files, found = collection.walk(root / part, frozenset({".tfrecords"}))
            if not files:
                raise InputError(f"{root / part} holds no files that end in .tfrecords; unpack the archive there")
            records = [episode for file in files for episode in self._episodes(file, part, folder)]
            parts[part] = len(records)
            episodes += records
            loops += found
        return collection.collect(folder, episodes, left_out=loops, facts=FACTS, parts=parts)

    def _episodes(self, file: Path, part: str, folder: Path) -> Iterator[Episode]:
        stem = collection.name(file.relative_to(folder))
        for number, offset in enumerate(tfrecords.offsets(file)):
            name = f"{stem}/{number:04d}"
            split: Split = "test" if part == "test" else collection.drawn(name, {"val": self.val})
            yield Episode(split, name, file, offset, self.camera)
