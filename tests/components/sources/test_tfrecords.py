"""TFRecords: checksums are those of the standard, damage is found, and an Example is what protobuf wrote."""

from pathlib import Path

import numpy as np
import pytest

from components.foundation.errors import InputError
from components.sources import tfrecords
from tests.components.sources import official

RECORDS = (b"", b"one", bytes(range(256)) * 100)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"123456789", 0xE3069283),  # RFC 3720, B.4, and the catalogue of CRC algorithms
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"", 0),
    ],
)
def test_checksums_are_the_published_ones(content: bytes, expected: int) -> None:
    assert tfrecords.checksum(content) == expected


@pytest.mark.parametrize("count", [16_383, 16_384, 16_385, 40_000, 81_920])
def test_a_long_message_has_the_checksum_that_one_byte_after_another_gives(count: int) -> None:
    content = np.random.default_rng(count).bytes(count)
    table = []
    for state in range(256):
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
        table.append(state)
    state = 0xFFFFFFFF
    for byte in content:
        state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
    assert tfrecords.checksum(content) == state ^ 0xFFFFFFFF


def test_every_record_is_found_and_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecords"
    path.write_bytes(b"".join(map(official.record, RECORDS)))
    assert tuple(tfrecords.read(path, offset) for offset in tfrecords.offsets(path)) == RECORDS


def test_a_flipped_byte_is_told_where_it_is_and_harms_no_other_record(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecords"
    content = bytearray(b"".join(map(official.record, RECORDS)))
    content[16 + 12 + 1] ^= 1  # in "one"
    path.write_bytes(content)
    first, second, third = tfrecords.offsets(path)
    with pytest.raises(InputError, match=r"a\.tfrecords is damaged in the record at byte 16; download the file again"):
        tfrecords.read(path, second)
    assert (tfrecords.read(path, first), tfrecords.read(path, third)) == (RECORDS[0], RECORDS[2])


def test_a_file_that_is_cut_off_keeps_what_stands_before_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecords"
    path.write_bytes(b"".join(map(official.record, RECORDS))[:-9])
    offsets = list(tfrecords.offsets(path))
    assert len(offsets) == 3
    assert tfrecords.read(path, offsets[1]) == b"one"
    with pytest.raises(InputError, match="is truncated in the record at byte 35"):
        tfrecords.read(path, offsets[2])


@pytest.mark.parametrize("content", [b"once upon a time, there was no record at all", b"\x03\0\0"])
def test_a_file_of_something_else_has_no_sound_record(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tfrecords"
    path.write_bytes(content)
    (offset,) = tfrecords.offsets(path)
    with pytest.raises(InputError, match="has a damaged record header at byte 0"):
        tfrecords.read(path, offset)


def test_an_example_is_read_as_protobuf_wrote_it() -> None:
    features = {"0/image_main/encoded": bytes(range(256)) * 48, "29/image_aux1/encoded": b"x", "ü": b""}
    assert tfrecords.byte_features(official.example(features)) == features


@pytest.mark.parametrize("message", [b"\x0a\xff\x01short", b"\x0b", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"])
def test_what_is_no_example_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"longer than|wire type|does not end"):
        tfrecords.byte_features(message)
