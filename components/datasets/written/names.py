"""Text files that users write, in any common encoding, and the videos that they name."""

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from components.foundation.errors import InputError

_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # signs that end a line or move the cursor
_LABEL: Final = re.compile(r"\s+\d+\s*$")  # after a name: the number of its class


def read_text(path: Path) -> str:
    r"""Return the text of a UTF-8 file, or of a UTF-16 file with a byte order mark, with `\n` at the end of each line.

    Raises OSError if the file cannot be read, UnicodeDecodeError if it is in another encoding.
    """
    content = path.read_bytes()
    text = content.decode("utf-16" if content.startswith(_UTF16) else "utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number, from 1, and the text of each line that is not blank.

    Raises InputError if the file is missing or neither UTF-8 nor UTF-16.
    """
    try:
        lines = read_text(path).split("\n")
    except FileNotFoundError:
        raise InputError(f"the list {path} does not exist; add it or correct the data set's split settings") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the list {path} cannot be read ({error}); replace it with a UTF-8 text file") from None
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def one_line(text: str) -> str:
    r"""Return the text with line breaks and other control characters replaced by Python escapes, such as `\n`."""
    return _CONTROLS.sub(lambda sign: sign[0].encode("unicode_escape").decode("ascii"), text)


class Names:
    """Names of a data set's videos, with a search that accepts other spellings of a name.

    A name is a path relative to the data set's folder. The search accepts a leading `./`, backslashes, spaces around
    the name, another case of letters, composed or decomposed letters (NFC, NFD), and absolute paths.
    """

    def __init__(self, names: Iterable[str], folder: Path | None = None) -> None:
        """Find these names; absolute paths are found if they lead into `folder`."""
        self._names = dict.fromkeys(names)
        self._homes = () if folder is None else tuple(dict.fromkeys((folder.absolute(), folder.resolve())))
        self._alike: dict[str, list[str]] = defaultdict(list)
        for name in self._names:
            self._alike[plain(name)].append(name)

    def find(self, text: str) -> str | None:
        """Return the name that `text` spells; None if no name or several names match."""
        if text in self._names:
            return text
        form = plain(text)
        for home in self._homes:
            form = form.removeprefix(f"{plain(str(home))}/")
        alike = self._alike.get(form, ())
        return alike[0] if len(alike) == 1 else None

    def find_labelled(self, text: str) -> str | None:
        """Return the name that `text` spells, optionally followed by a class number; None if `find` returns None."""
        return self.find(text) or self.find(_LABEL.sub("", text))

    def example(self, text: str) -> str:
        """Return an existing name for an error message: one with the same file name as `text`, or else any name."""
        last = plain(_LABEL.sub("", text)).rpartition("/")[2]
        alike = (name for name in self._names if plain(name).rpartition("/")[2] == last)
        return next(alike, min(self._names, default="folder/video.mp4"))


def plain(text: str) -> str:
    """Return the normal form of a path; all accepted spellings of a name have the same normal form."""
    composed = unicodedata.normalize("NFC", one_line(text.strip()).replace("\\", "/"))
    return posixpath.normpath(composed).casefold()
