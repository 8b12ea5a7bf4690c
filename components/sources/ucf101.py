"""UCF-101 in its official layout: web videos of human actions, 320 x 240 pixels, with three official splits.

Licence: none is stated; the videos belong to those who uploaded them to YouTube. Citation: Soomro, Zamir, Shah,
"UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild", CRCV-TR-12-01, 2012 (arXiv:1212.0402).
Download: www.crcv.ucf.edu/data/UCF101.php. Expected layout: UCF-101/<Class>/v_<Class>_g<group>_c<clip>.avi, 13320
videos, and ucfTrainTestlist/trainlist0<n>.txt and testlist0<n>.txt. Each of the 25 groups of a class is cut from one
video, so a group stays in one split.
"""

from typing import Final, Literal

from components.datasets.shards import Split
from components.datasets.written.names import read_lines
from components.foundation.errors import InputError
from components.foundation.settings.ranges import Share
from components.sources import collection, folders
from components.sources.collection import Collection, Facts, FromFiles, Published, Source
from components.sources.folders import Finding

VIDEOS: Final = "UCF-101"
LISTS: Final = "ucfTrainTestlist"
COUNTS: Final = {
    1: {"train": 9_537, "test": 3_783},
    2: {"train": 9_586, "test": 3_734},
    3: {"train": 9_624, "test": 3_696},
}


def facts(official_split: Literal[1, 2, 3]) -> Facts:
    """Return the metadata of UCF-101 with one of its official splits."""
    return Facts(
        name=f"UCF-101, split {official_split}",
        licence="none is stated; the videos belong to those who uploaded them to YouTube",
        citation="Soomro, Zamir, Shah, UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild, 2012",
        home="www.crcv.ucf.edu/data/UCF101.php",
        counts=COUNTS[official_split],
    )


class Ucf101Config(FromFiles, Published):
    """UCF-101 in a folder with UCF-101/ and ucfTrainTestlist/; `val` is a share of the groups of the training list."""

    kind: Literal["ucf101"]
    official_split: Literal[1, 2, 3]
    val: Share

    def find(self) -> Collection:
        """Return the videos that the official lists name. Raises InputError if the videos or a list are missing."""
        folder = self.folder
        if not self.inside(VIDEOS).is_dir():
            raise InputError(f"{folder / VIDEOS} is not a folder; unpack the archive of UCF-101 there")
        listed = self._listed()
        paths, left_out = folders.walk(folder / VIDEOS, collection.other_than(".avi", "UCF-101"))
        present = {folders.name(path.relative_to(folder / VIDEOS)): path for path in paths}
        left_out += [
            Finding(kind="left out", split=None, video=name, reason="is in neither official list")
            for name in present.keys() - listed
        ]
        missing = [
            Finding(
                kind="missing", split=self._split(name, part), video=name, reason="is listed, but not in the folder"
            )
            for name, part in listed.items()
            if name not in present
        ]
        used = [(name, part) for name, part in listed.items() if name in present]
        videos = [Source(self._split(name, part), name, present[name]) for name, part in used]
        known = facts(self.official_split)
        parts = {official: sum(part == official for _, part in used) for official in known.counts}
        left_out.sort(key=lambda finding: finding.video)
        return collection.collect(folder, videos, missing=missing, left_out=left_out, facts=known, parts=parts)

    def _listed(self) -> dict[str, str]:
        """Return the official part of each listed video. A line is `<Class>/<file> <label>` or has no label.

        Raises InputError if a list is missing or both lists name one video.
        """
        listed: dict[str, str] = {}
        for part in ("train", "test"):
            path = self.inside(LISTS, f"{part}list0{self.official_split}.txt")
            for _, line in read_lines(path):
                if listed.setdefault(name := line.split()[0], part) != part:
                    raise InputError(f"{path} names {name}, which is in the other list too; download the lists again")
        return listed

    def _split(self, name: str, part: str) -> Split:
        group = name.rpartition("_c")[0]  # clips of one video, which stay together
        return "test" if part == "test" else collection.drawn(group, {"val": self.val})
