"""What videos are about, a caption or a label each: in a csv beside the videos, then with the clips cut out of them."""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from components.data import shards
from components.data.shards import SPLITS
from components.errors import InputError

FILE: Final = "words.csv"
COLUMNS: Final = ("split", "clip", "words")
KINDS: Final = ("caption", "label")  # the second column of the csv beside the videos
_SHOWN: Final = 3  # names in a message


def read(path: Path, videos: Collection[str], others: Collection[str]) -> dict[str, str]:
    """The caption or label of every video; `others` may have one, and need not.

    Raises InputError: no such file or columns, a video named twice, words without a video, a video without words.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            kinds = [kind for kind in KINDS if kind in (table.fieldnames or ())]
            if "video" not in (table.fieldnames or ()) or len(kinds) != 1:
                told = "needs the columns video and caption, or video and label; its first line names others"
                raise InputError(f"{path} {told}")
            lines = [(line["video"], line[kinds[0]]) for line in table]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); put a csv there, or set words to null") from None
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} is no csv ({error}); replace it by a text file") from None
    found = dict(lines)
    if len(found) < len(lines):
        twice = next(name for index, (name, _) in enumerate(lines) if name in dict(lines[:index]))
        raise InputError(f"{path} names {twice} twice; keep one of its lines")
    if lost := sorted(found.keys() - set(videos) - set(others)):
        raise InputError(
            f"{path} has a {kinds[0]} for {_some(lost)}, which is no video here; add the video or remove it"
        )
    if bare := sorted(name for name in videos if found.get(name) is None):
        raise InputError(f"{path} has no {kinds[0]} for {_some(bare)}; add a line for each video")
    return found


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def write(out: Path, words: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The words of each clip, in the order of the clips; the file and its sha256, for a manifest."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for split in SPLITS:
        writer.writerows((split, clip, one) for clip, one in enumerate(words.get(split, ())))
    return {FILE: shards.write_text(out / FILE, text.getvalue())}


def of(folder: Path, files: Mapping[str, str]) -> dict[str, tuple[str, ...]] | None:
    """The words of the clips in a folder with these files, split by split; None where there are none.

    Raises InputError for a file that is missing or damaged.
    """
    if FILE not in files:
        return None
    path = folder / FILE
    try:
        whole = shards.sha256(path) == files[FILE]
    except OSError:
        whole = False
    if not whole:
        raise InputError(f"{path} is missing or not what its manifest says; make its folder again")
    with path.open(encoding="utf-8", newline="") as file:
        lines = [(line["split"], line["words"]) for line in csv.DictReader(file)]
    return {split: tuple(one for own, one in lines if own == split) for split in SPLITS}
