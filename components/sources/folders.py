"""The files of a data set's folder, restricted to files whose changes DVC detects.

DVC follows a link to a file, and the data set's folder may itself be a link, but DVC does not follow links to folders
inside it. Videos behind such a link could change without a stage running again, so they are not read.
"""

import os
import shlex
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, Literal

from components.datasets.shards import Split
from components.datasets.written.names import one_line
from components.foundation.config import Config
from components.foundation.errors import InputError

_SHOWN: Final = 3  # files listed in an error message


class Finding(Config):
    """A problem of one video, with its reason; `split` is None if the video belongs to no split."""

    kind: Literal["broken", "short", "duplicate", "suspicious", "missing", "left out"]
    split: Split | None
    video: str
    reason: str


def name(relative: Path) -> str:
    r"""Return a path as one line of UTF-8 text with forward slashes.

    Other bytes and control characters become Python escapes, such as `\xff` and `\n`.
    """
    text = relative.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return one_line(text)


def by_name(folder: Path, paths: Iterable[Path]) -> dict[str, Path]:
    """Return the paths by their names relative to `folder`. Raises InputError if two paths get the same name."""
    names: dict[str, Path] = {}
    for path in paths:
        if (own := name(path.relative_to(folder))) in names:
            raise InputError(f"two files in {folder} have the name {own} after escaping special characters; rename one")
        names[own] = path
    return names


def linked_within(link: Path, folder: Path) -> str:
    """Return why a link to a folder is ignored. Raises InputError unless the link leads to a folder of the data set."""
    target, home = Path(os.path.realpath(link)), Path(os.path.realpath(folder))
    inside = target.relative_to(home) if target.is_relative_to(home) else None
    if inside is None or any(part.startswith(".") for part in inside.parts):
        raise _link_error(link)
    return f"is a link to the folder {name(inside)}, whose files are read there"


def walk(
    folder: Path,
    unwanted: Callable[[Path], str | None],
    *,
    home: Path | None = None,
    linked: Callable[[Path, Path], str] = linked_within,
) -> tuple[list[Path], list[Finding]]:
    """Return the files in a folder and below, in a fixed order, and the ignored entries, each with its reason.

    `unwanted(path)` returns the reason to ignore a file, None to return the file, or "" to skip it without a finding.
    Hidden files and folders are ignored, and so are links to folders, for which `linked(link, folder)` returns the
    reason. Findings name files relative to `home`, the data set's folder, or to `folder` if `home` is None. Raises
    InputError if a folder cannot be read, and the errors of `linked`.
    """
    paths: list[Path] = []
    left_out: list[Finding] = []

    def leave(path: Path, reason: str) -> None:
        video = name(path.relative_to(home or folder))
        left_out.append(Finding(kind="left out", split=None, video=video, reason=reason))

    for place, folders, files in os.walk(folder, onerror=_refuse):
        for path in (Path(place, entry) for entry in sorted(folders)):
            if path.name.startswith("."):
                leave(path, "is hidden")
            elif path.is_symlink():
                leave(path, linked(path, folder))
        folders[:] = sorted(entry for entry in folders if not _passed_over(Path(place, entry)))
        for path in (Path(place, entry) for entry in sorted(files)):
            reason = "is hidden" if path.name.startswith(".") else unwanted(path)
            if reason is None:
                paths.append(path)
            elif reason:
                leave(path, reason)
    return paths, left_out


def _passed_over(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.is_symlink()


def _link_error(link: Path) -> InputError:
    target = os.path.realpath(link)
    return InputError(
        f"{link} is a link to the folder {target}, and DVC does not detect changes behind it; replace the link by the "
        f"folder, or by links to its files: rm {shlex.quote(str(link))} && "
        f"cp -rs {shlex.quote(target)} {shlex.quote(str(link))}"
    )


def inside(folder: Path, relative: str) -> Path:
    """Return the path of a file or folder that belongs to a data set; it need not exist.

    Raises InputError if DVC would not detect its changes, because it lies outside of the data set's folder or behind a
    link to a folder. A link to a file is followed. Hidden files are refused, because provenance does not record them.
    """
    path = Path(os.path.normpath(folder / relative))
    if not path.is_relative_to(os.path.normpath(folder)):
        raise InputError(
            f"{relative} lies outside of the data set's folder {folder}, so DVC does not detect its changes; "
            "move it into the folder"
        )
    steps = path.relative_to(os.path.normpath(folder)).parts
    for number, step in enumerate(steps):
        if step.startswith("."):
            raise InputError(f"{path} is hidden, so its changes are not recorded; rename {step} without the dot")
        way = Path(folder, *steps[: number + 1])
        if way.is_symlink() and way.is_dir():
            raise _link_error(way)
    return Path(folder, *steps)


def check(folder: Path) -> None:
    """Raise InputError if DVC cannot read a data set's folder completely, or would not detect changes in it.

    DVC itself fails with an unclear error on an unreadable file, a broken link, a name that is not UTF-8, or a pipe.
    """
    walk(folder, lambda path: None)  # raises InputError for links and folders
    problems = [f"{name(path.relative_to(folder))} {problem}" for path in _all(folder) if (problem := unreadable(path))]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError(
            f"{folder} holds files that DVC cannot read ({', '.join(problems[:_SHOWN])}{more}); "
            "repair or rename them, or move them out of the folder"
        )


def _all(folder: Path) -> Iterator[Path]:
    """Yield all files, hidden ones too, because DVC reads them."""
    for place, folders, files in os.walk(folder, onerror=_refuse):
        folders.sort()
        yield from (Path(place, entry) for entry in sorted(files))


def unreadable(path: Path) -> str | None:
    """Return why DVC cannot read a file; None if it can."""
    try:
        str(path).encode("utf-8")
        mode = path.stat().st_mode  # of the file that a link leads to
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    except FileNotFoundError:
        return f"is a broken link to {name(path.readlink())}"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not stat.S_ISREG(mode):
        return "is neither a file nor a folder"
    if path.name == ".dvcignore":
        return "would make DVC refuse the folder"
    return None if os.access(path, os.R_OK) else "cannot be read (Permission denied)"


def _refuse(error: OSError) -> None:
    raise InputError(
        f"{error.filename} cannot be read ({error.strerror}); grant access to it or move it away"
    ) from None
