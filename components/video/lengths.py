"""Detect truncated video files by the lengths that their containers state.

The stated length is not a number of frames: frames may have any duration, and audio may be longer than the video. A
file is truncated if a size in the container reaches beyond the end of the file, or if the last picture is long before
the stated end of the video stream. Anything else makes a file only suspicious.
"""

from pathlib import Path
from typing import BinaryIO, Final

MOV: Final = "mov,mp4,m4a,3gp,3g2,mj2"
MATROSKA: Final = "matroska,webm"
AVI: Final = "avi"
MXF: Final = "mxf"
STATED: Final = (MOV, MATROSKA, AVI, "asf", "flv")  # formats whose length is stated, not estimated by FFmpeg
MOST_MISSING: Final = 0.1  # share of a file's bytes, or of a stream's seconds; a file that lacks more is truncated
_SEGMENT: Final = b"\x18\x53\x80\x67"  # Matroska's element that holds everything
_BOXES: Final = frozenset(  # top-level boxes of mp4 and mov
    b"ftyp moov mdat free skip wide pnot moof mfra sidx ssix styp uuid pdin meta meco emsg prft udta imda".split()
)
_ASF_PROPERTIES: Final = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_LONGEST_PAGE: Final = 65307  # bytes of a page of Ogg
_HEADER: Final = b"\x1a\x45\xdf\xa3"
# of Matroska, FLV, Ogg, MPEG program and video streams, GIF, ASF, MXF, YUV4MPEG, IVF, RealMedia and NUT
_STARTS: Final = (
    *(_HEADER, b"FLV\x01", b"OggS", b"\x00\x00\x01\xba", b"GIF8"),
    *(b"\x30\x26\xb2\x75\x8e\x66\xcf", b"\x06\x0e\x2b\x34\x02\x05\x01\x01", b"\x00\x00\x01\xb3"),
    *(b"YUV4MPEG2", b"DKIF", b".RMF", b"nut/multimedia container"),
)


def missing_bytes(path: Path, form: str) -> int | None:
    """Return how many bytes the container states beyond the end of the file; None if it states no size.

    `form` is FFmpeg's name of the container format. Live recordings, transport streams and some others state no size.
    """
    size = path.stat().st_size
    end: int | None = None
    with path.open("rb") as file:
        match form:
            case "mov,mp4,m4a,3gp,3g2,mj2":
                end = _boxes(file, size)
            case "matroska,webm":
                end = _matroska(file)
            case "avi":
                end = _riff(file, size)
            case "asf":
                end = _asf(file, size)
            case "ogg":
                end = _ogg(file, size)
    return None if end is None else max(0, end - size)


def _boxes(file: BinaryIO, size: int) -> int:
    """Return the byte offset of the end of the last box of an mp4 or mov file."""
    end = 0
    while end < size:
        file.seek(end)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length == 0:  # up to the end of the file
            return size
        if length < 8 or head[4:8] not in _BOXES:  # bytes that were appended
            return size
        end += length
    return end


def _matroska(file: BinaryIO) -> int | None:
    """Return the byte offset of the end of a Matroska file's segment; None if the segment's size is unknown."""
    head = file.read(4096)
    if not head.startswith(_HEADER):
        return None
    place = head.find(_SEGMENT, 4)
    first = head[place + 4] if 0 <= place < len(head) - 12 else 0
    if not first:
        return None
    width = 9 - first.bit_length()
    value = int.from_bytes(head[place + 4 : place + 4 + width], "big") - (1 << (7 * width))
    unknown = value == (1 << (7 * width)) - 1
    return None if unknown else place + 4 + width + value


def _riff(file: BinaryIO, size: int) -> int | None:
    """Return the byte offset of the end of an AVI file's last RIFF chunk; None if a chunk's size was never written."""
    end = 0
    while end < size:
        file.seek(end)
        head = file.read(8)
        if head[:4] != b"RIFF" or len(head) < 8:  # padding, or bytes that were appended
            return size
        length = int.from_bytes(head[4:], "little")
        if length in (0, 2**32 - 1):
            return None
        end += 8 + length
    return end


def _asf(file: BinaryIO, size: int) -> int | None:
    """Return the size that an ASF file states, if that is larger than the file; None for a recording on air."""
    head = file.read(8192)
    place = head.find(_ASF_PROPERTIES)
    if place < 0 or head[place + 88 : place + 89] != b"\x02":  # seekable, and not a broadcast
        return None
    end = int.from_bytes(head[place + 40 : place + 48], "little")
    return end if end > size else None


def _ogg(file: BinaryIO, size: int) -> int | None:
    """Return where the last page of an Ogg file ends, if that is after the end of the file."""
    begin = max(0, size - _LONGEST_PAGE)
    file.seek(begin)
    tail = file.read()
    place = tail.rfind(b"OggS")
    if place < 0:
        return None
    lengths = tail[place + 27 : place + 27 + (tail[place + 26] if place + 26 < len(tail) else 1)]
    end = begin + place + 27 + max(1, len(lengths)) + sum(lengths)
    return end if end > size else None


def begins_like_a_video(path: Path) -> bool:
    """Return whether the first bytes of a file are those of a video container; False for an unreadable file."""
    try:
        if not path.is_file():  # opening a pipe would wait for a writer
            return False
        with path.open("rb") as file:
            start = file.read(400)
    except OSError:
        return False
    return (
        start[4:8] in (b"ftyp", b"moov", b"mdat")
        or start.startswith(_STARTS)
        or (start[:4], start[8:12]) == (b"RIFF", b"AVI ")
        or start[0:377:188] == b"GGG"  # transport stream: packets of 188 bytes, or of 192 with a time stamp before each
        or start[4:389:192] == b"GGG"
    )


def is_truncated(path: Path, missing: int | None) -> bool:
    """Return whether a file is truncated: the share of `missing` bytes exceeds MOST_MISSING."""
    return bool(missing) and _share(path, missing) > MOST_MISSING


def truncation(path: Path, missing: int | None) -> str:
    """Return the end of an error message: the share of missing bytes of a truncated file, and what to do."""
    return f"is truncated: {_share(path, missing):.0%} of its bytes are missing; copy it again or remove it"


def _share(path: Path, missing: int | None) -> float:
    lacking = missing or 0
    return lacking / (lacking + path.stat().st_size)
