"""UCF-101 in its official tree: human actions from the web, 320 x 240, with three official splits.

Licence: none is stated; the videos are YouTube's uploaders'. Citation: Soomro, Zamir, Shah, "UCF101: A Dataset of 101
Human Actions Classes From Videos in The Wild", CRCV-TR-12-01, 2012 (arXiv:1212.0402). To be had:
www.crcv.ucf.edu/data/UCF101.php. Expected: UCF-101/<Class>/v_<Class>_g<group>_c<clip>.avi, 13320 videos, and
ucfTrainTestlist/trainlist0<n>.txt and testlist0<n>.txt; each of the 25 groups of a class is of one film and stays
together.
"""

from pathlib import Path
from typing import Final, Literal

from components.data import collection
from components.data.collection import Collection, Facts, Finding, Published, Share, Source
from components.data.shards import Split
from components.errors import InputError

VIDEOS: Final = "UCF-101"
LISTS: Final = "ucfTrainTestlist"
COUNTS: Final = {
    1: {"train": 9_537, "test": 3_783},
    2: {"train": 9_586, "test": 3_734},
    3: {"train": 9_624, "test": 3_696},
}


def facts(official_split: Literal[1, 2, 3]) -> Facts:
    """What is known of UCF-101 with one of its official splits."""
    return Facts(
        name=f"UCF-101, split {official_split}",
        licence="none is stated; the videos belong to those who uploaded them to YouTube",
        citation="Soomro, Zamir, Shah, UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild, 2012",
        home="www.crcv.ucf.edu/data/UCF101.php",
        counts=COUNTS[official_split],
    )


class Ucf101Config(Published):
    """The folder that holds UCF-101/ and ucfTrainTestlist/; `val` is a share of the groups of the training list."""

    kind: Literal["ucf101"]
    official_split: Literal[1, 2, 3]
    val: Share

    def find(self) -> Collection:
        """The videos that the official lists name. Raises InputError if the tree or a list is missing."""
        folder = self.folder
        if not (folder / VIDEOS).is_dir():
            raise InputError(f"{folder / VIDEOS} is not a folder; unpack the archive of UCF-101 there")
        listed = self._listed(folder / LISTS)
        paths, left_out = collection.walk(folder / VIDEOS, frozenset({".avi"}))
        there = {collection.name(path.relative_to(folder / VIDEOS)): path for path in paths}
        left_out += [
            Finding(kind="left out", split=None, video=name, reason="is in neither official list")
            for name in there.keys() - listed
        ]
        missing = [
            Finding(kind="missing", split=self._split(name, part), video=name, reason="is listed, but not there")
            for name, part in listed.items()
            if name not in there
        ]
        videos = [Source(self._split(name, part), name, there[name]) for name, part in listed.items() if name in there]
        present = [part for name, part in listed.items() if name in there]
        known = facts(self.official_split)
        parts = {part: present.count(part) for part in known.counts}
        left_out.sort(key=lambda finding: finding.video)
        return collection.collect(folder, videos, missing=missing, left_out=left_out, facts=known, parts=parts)

    def _listed(self, lists: Path) -> dict[str, str]:
        """The videos of the official lists, and the part of each: `<Class>/<file> <label>` or without the label."""
        listed: dict[str, str] = {}
        for part in ("train", "test"):
            path = lists / f"{part}list0{self.official_split}.txt"
            for line in collection.read_lines(path):
                if listed.setdefault(name := line.split(" ")[0], part) != part:
                    raise InputError(f"{path} names {name}, which is in the other list too; get the lists again")
        return listed

    def _split(self, name: str, part: str) -> Split:
        group = name.rpartition("_c")[0]  # of one film, so never apart
        return "test" if part == "test" else collection.drawn(group, {"val": self.val})
