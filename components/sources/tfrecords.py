"""Read TFRecord files of tf.train.Example messages without TensorFlow.

A record is the message's length (8 bytes, little-endian), the masked CRC-32C of the length, the message, and the masked
CRC-32C of the message (tensorflow/core/lib/io/record_writer.h). A message is in protobuf wire format:
Example.features.feature maps a name to a list of bytes, floats or integers (tensorflow/core/example/example.proto).
"""

import functools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt32

from components.foundation.errors import InputError

POLYNOMIAL: Final = 0x82F63B78  # CRC-32C (Castagnoli), bits reversed
MASK: Final = 0xA282EAD8
LANES: Final = 4096  # pieces of a message whose checksums are computed in parallel by numpy; a power of two
HEAD: Final = struct.Struct("<QI")
TAIL: Final = struct.Struct("<I")
Operator = UInt32[np.ndarray, "32"]  # a linear map over GF(2) of 32 bits, as the images of the single bits


def offsets(path: Path) -> Iterator[int]:
    """Yield the byte offset of each record; end after a record with a damaged header, for which `read` raises."""
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
    """Return the message of the record at a byte offset. Raises InputError if it is truncated or a checksum differs."""
    with path.open("rb") as file:
        file.seek(offset)
        head = file.read(HEAD.size)
        if not _sound_head(head):
            raise InputError(f"{path} has a damaged record header at byte {offset}; download the file again")
        length = HEAD.unpack(head)[0]
        message, tail = file.read(length), file.read(TAIL.size)
    if len(tail) != TAIL.size:
        raise InputError(f"{path} is truncated in the record at byte {offset}; download the file again")
    if TAIL.unpack(tail)[0] != masked(checksum(message)):
        raise InputError(f"{path} is damaged in the record at byte {offset}; download the file again")
    return message


def byte_features(message: bytes) -> dict[str, bytes]:
    """Return the first entry of each bytes feature. Raises ValueError if the message is not a tf.train.Example."""
    found = {}
    for features in _parts(memoryview(message), 1):
        for entry in _parts(features, 1):
            key = bytes(next(_parts(entry, 1), memoryview(b""))).decode()
            for feature in _parts(entry, 2):
                for values in _parts(feature, 1):
                    found[key] = bytes(next(_parts(values, 1), memoryview(b"")))
    return found


def masked(crc: int) -> int:
    """Return the masked form of a CRC that TFRecords store: rotated, plus a constant."""
    return ((crc >> 15 | crc << 17) + MASK) & 0xFFFFFFFF


def checksum(content: bytes) -> int:
    """Return the CRC-32C (RFC 3720, B.4) of `content`, computed in parallel pieces.

    The pieces can be combined because a CRC is linear, and leading zeros do not change it. Flipping the first four
    bytes replaces the register's initial value of all ones.
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
    while len(states) > 1:  # combine neighbours: advance the left state by the length of the right piece, then xor
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
    """Return the operator that advances a CRC state by `count` zero bytes."""
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
    """Yield the length-delimited fields with this number in a protobuf message."""
    offset = 0
    while offset < len(message):
        tag, offset = _varint(message, offset)
        match tag & 7:
            case 0:
                _, offset = _varint(message, offset)
            case 1:
                offset += 8
            case 2:
                length, offset = _varint(message, offset)
                if offset + length > len(message):
                    raise ValueError("a field is longer than its message")
                if tag >> 3 == number:
                    yield message[offset : offset + length]
                offset += length
            case 5:
                offset += 4
            case other:
                raise ValueError(f"wire type {other} is not allowed in an Example")


def _varint(message: memoryview, offset: int) -> tuple[int, int]:
    """Return the varint at an offset and the offset after it. Raises ValueError if the varint does not end."""
    value = shift = 0
    while True:
        if offset >= len(message) or shift > 63:
            raise ValueError("a varint does not end")
        byte = message[offset]
        value |= (byte & 0x7F) << shift
        offset, shift = offset + 1, shift + 7
        if not byte & 0x80:
            return value, offset
