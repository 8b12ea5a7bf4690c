"""BAIR robot pushing (softmotion30_44k) in its official TFRecords: two cameras film a Sawyer arm that pushes objects.

Licence: the archive states none; ask its authors. Citation: Ebert, Finn, Lee, Levine, "Self-Supervised Visual Planning
with Temporal Skip Connections", CoRL 2017 (arXiv:1710.05268). Download: bair_robot_pushing_dataset_v0 at
rail.eecs.berkeley.edu, a tar archive of 30 GB. Expected layout: softmotion30_44k/train and /test with files
traj_<first>_to_<last>.tfrecords of up to 256 episodes each, 43264 and 256 episodes in all. An episode has 30 frames of
64 x 64 x 3 raw bytes per camera, under the keys <frame>/<camera>/encoded. The literature predicts image_aux1.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from components.datasets.shards import Split
from components.foundation.errors import InputError
from components.foundation.settings.ranges import Share
from components.sources import collection, folders, tfrecords
from components.sources.collection import Collection, Facts, Published, Source
from components.sources.folders import Finding
from components.video import video

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
    """One episode, which is one record of a TFRecord file, seen by one camera."""

    offset: int  # bytes
    camera: Camera

    def scan(self, how: video.Decoding, begin: video.Begin) -> video.Facts:
        """Pass the frames of the episode on, with the interface of `Source.scan`.

        Raises InputError if the record is truncated, damaged or has no pictures of this camera.
        """
        try:
            features = tfrecords.byte_features(tfrecords.read(self.path, self.offset))
        except ValueError as error:
            raise InputError(
                f"{self.path} has no tf.train.Example at byte {self.offset} ({error}); download it again"
            ) from None
        return video.from_pictures(np.stack(list(self._pictures(features))), how.size, FRAMES, begin())

    def _pictures(self, features: dict[str, bytes]) -> Iterator[np.ndarray]:
        frames = sorted(int(key.split("/")[0]) for key in features if re.fullmatch(rf"\d+/{self.camera}/encoded", key))
        if not frames or frames != list(range(len(frames))):
            content = "pictures of some frames only" if frames else "no pictures"
            raise InputError(
                f"{self.path} has {content} of {self.camera} in the record at byte {self.offset}; download it again"
            )
        for frame in frames:
            picture = features[f"{frame}/{self.camera}/encoded"]
            if len(picture) != SIDE * SIDE * 3:
                raise InputError(
                    f"{self.path} has a frame {frame} of {len(picture)} bytes instead of {SIDE * SIDE * 3} "
                    f"in the record at byte {self.offset}; download it again"
                )
            yield np.frombuffer(picture, np.uint8).reshape(SIDE, SIDE, 3)


class BairConfig(Published):
    """BAIR in a folder with train/ and test/, or with softmotion30_44k/; `val` is a share of the training episodes."""

    kind: Literal["bair"]
    camera: Camera
    val: Share

    def find(self) -> Collection:
        """Return every episode. Raises InputError if train or test is missing or holds no TFRecords."""
        folder = self.folder
        inner = self.inside("softmotion30_44k")
        root = inner if inner.is_dir() else folder
        episodes: list[Episode] = []
        left_out: list[Finding] = []
        parts = {}
        for part in FACTS.counts:
            if not folders.inside(root, part).is_dir():
                raise InputError(f"{root / part} is not a folder; unpack the archive of {FACTS.name} there")
            files, others = folders.walk(root / part, collection.other_than(".tfrecords", FACTS.name), home=folder)
            if not files:
                raise InputError(f"{root / part} holds no files that end in .tfrecords; unpack the archive there")
            records = [episode for file in files for episode in self._episodes(file, part, folder)]
            parts[part] = len(records)
            episodes += records
            left_out += others
        return collection.collect(folder, episodes, left_out=left_out, facts=FACTS, parts=parts)

    def _episodes(self, file: Path, part: str, folder: Path) -> Iterator[Episode]:
        stem = folders.name(file.relative_to(folder))
        for number, offset in enumerate(tfrecords.offsets(file)):
            name = f"{stem}/{number:04d}"
            split: Split = "test" if part == "test" else collection.drawn(name, {"val": self.val})
            yield Episode(split, name, file, offset, self.camera)
