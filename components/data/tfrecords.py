"""TFRecord files of tf.train.Example messages, read without TensorFlow.

A record is its length (8 bytes, little-endian), the masked CRC-32C of that, the message, and the masked CRC-32C of the
message (tensorflow/core/lib/io/record_writer.h). A message is protobuf wire format: Example.features.feature is a map
from a name to lists of bytes, floats or integers (tensorflow/core/example/example.proto).
"""

import functools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt32

from components.errors import InputError

POLYNOMIAL: Final = 0x82F63B78  # Castagnoli's, bits reversed
MASK: Final = 0xA282EAD8
LANES: Final = 4096  # pieces of a message whose checksums are computed side by side; a power of two
HEAD: Final = struct.Struct("<QI")
TAIL: Final = struct.Struct("<I")
Operator = UInt32[np.ndarray, "32"]  # a linear map of 32 bits: the images of the single bits


def offsets(path: Path) -> Iterator[int]:
    """Where each record of a file begins; the last may be one that `read` refuses, behind which nothing is found."""
    total = path.stat().st_size
    with path.open("rb") as file:
        start = 0
        while start < total:
            yield start
            head = file.read(HEAD.size)
            if not _sound_head(head):
                return
            length = HEAD.unpack(head)[0]
            start += HEAD.size + length + TAIL.size
            file.seek(start)


def read(path: Path, offset: int) -> bytes:
    """The message of the record that begins there. Raises InputError if it is cut off or a checksum is wrong."""
    with path.open("rb") as file:
        file.seek(offset)
        head = file.read(HEAD.size)
        if not _sound_head(head):
            raise InputError(f"{path} has no sound record at byte {offset}; copy the file again")
        length = HEAD.unpack(head)[0]
        message, tail = file.read(length), file.read(TAIL.size)
    if len(tail) != TAIL.size:
        raise InputError(f"{path} was cut off in the record at byte {offset}; copy the file again")
    if TAIL.unpack(tail)[0] != masked(checksum(message)):
        raise InputError(f"{path} is damaged in the record at byte {offset}; copy the file again")
    return message


def byte_features(message: bytes) -> dict[str, bytes]:
    """The features of an Example that are lists of bytes, the first entry of each. Raises ValueError for no Example."""
    found = {}
    for features in _parts(memoryview(message), 1):
        for entry in _parts(features, 1):
            key = bytes(next(_parts(entry, 1), memoryview(b""))).decode()
            for feature in _parts(entry, 2):
                for values in _parts(feature, 1):
                    found[key] = bytes(next(_parts(values, 1), memoryview(b"")))
    return found


def masked(crc: int) -> int:
    """A checksum as it stands in a file: rotated and shifted, so that checksums of checksums stay good."""
    return ((crc >> 15 | crc << 17) + MASK) & 0xFFFFFFFF


def checksum(content: bytes) -> int:
    """CRC-32C (RFC 3720, B.4) in pieces side by side: a CRC is linear, and zeros in front change nothing.

    The register's first value, all ones, is the same as the first four bytes flipped.
    """
    if len(content) < 4 * LANES:
        return _checksum_bytewise(content)
    flipped = bytes(byte ^ 0xFF for byte in content[:4]) + content[4:]
    depth = -(-len(flipped) // LANES)
    table = _table()
    columns = np.frombuffer(flipped.rjust(LANES * depth, b"\0"), np.uint8).reshape(LANES, depth).T.astype(np.uint32)
    states = np.zeros(LANES, np.uint32)
    for column in columns:
        states = table[(states ^ column) & 0xFF] ^ (states >> np.uint32(8))
    shift = _shift(depth)
    while len(states) > 1:  # neighbours become one: the left one is shifted by the length of the right one
        states = _apply(shift, states[0::2]) ^ states[1::2]
        shift = _apply(shift, shift)
    return int(states[0]) ^ 0xFFFFFFFF


def _sound_head(head: bytes) -> bool:
    return len(head) == HEAD.size and HEAD.unpack(head)[1] == masked(checksum(head[:8]))


def _checksum_bytewise(content: bytes) -> int:
    table, state = _table_of_ints(), 0xFFFFFFFF
    for byte in content:
        state = table[(state ^ byte) & 0xFF] ^ state >> 8
    return state ^ 0xFFFFFFFF


@functools.cache
def _table_of_ints() -> tuple[int, ...]:
    table = []
    for state in range(256):
        for _ in range(8):
            state = state >> 1 ^ (POLYNOMIAL if state & 1 else 0)
        table.append(state)
    return tuple(table)


@functools.cache
def _table() -> UInt32[np.ndarray, "256"]:
    return np.array(_table_of_ints(), np.uint32)


@functools.lru_cache(maxsize=64)
def _shift(count: int) -> Operator:
    """What so many zero bytes do to a state."""
    power = 1 << np.arange(32, dtype=np.uint32)
    result, step = power, _table()[power & 0xFF] ^ (power >> np.uint32(8))
    while count:
        if count & 1:
            result = _apply(step, result)
        step, count = _apply(step, step), count >> 1
    return result


def _apply(operator: Operator, states: UInt32[np.ndarray, "..."]) -> UInt32[np.ndarray, "..."]:
    bits = (states[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    return np.bitwise_xor.reduce(np.where(bits.astype(bool), operator, np.uint32(0)), axis=1)


def _parts(message: memoryview, number: int) -> Iterator[memoryview]:
    """The length-delimited fields of this number in a protobuf message."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        match tag & 7:
            case 0:
                _, place = _varint(message, place)
            case 1:
                place += 8
            case 2:
                length, place = _varint(message, place)
                if place + length > len(message):
                    raise ValueError("a field is longer than its message")
                if tag >> 3 == number:
                    yield message[place : place + length]
                place += length
            case 5:
                place += 4
            case other:
                raise ValueError(f"wire type {other} is no part of an Example")


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(message) or shift > 63:
            raise ValueError("a number does not end")
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if not byte & 0x80:
            return value, place
