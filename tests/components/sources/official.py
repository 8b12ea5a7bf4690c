"""Small data sets in exactly the formats in which the published ones come."""

import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.sources import tfrecords
from components.video import video


def record(message: bytes) -> bytes:
    """A message as TensorFlow's RecordWriter frames it."""
    length = struct.pack("<Q", len(message))
    sums = [struct.pack("<I", tfrecords.masked(tfrecords.checksum(part))) for part in (length, message)]
    return length + sums[0] + message + sums[1]


@cache
def _example_class() -> Any:
    """tf.train.Example (tensorflow/core/example/example.proto and feature.proto), for protobuf's own encoder."""
    pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="official", syntax="proto3")
    optional, repeated, message = 1, 3, 11
    kinds = {"BytesList": 12, "FloatList": 2, "Int64List": 3}
    for name, kind in kinds.items():
        file.message_type.add(name=name).field.add(name="value", number=1, label=repeated, type=kind)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (field, name) in enumerate(zip(("bytes_list", "float_list", "int64_list"), kinds, strict=True), 1):
        feature.field.add(
            name=field, number=number, label=optional, type=message, type_name=f".official.{name}", oneof_index=0
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=optional, type=9)
    entry.field.add(name="value", number=2, label=optional, type=message, type_name=".official.Feature")
    nested = ".official.Features.FeatureEntry"
    features.field.add(name="feature", number=1, label=repeated, type=message, type_name=nested)
    example = file.message_type.add(name="Example")
    example.field.add(name="features", number=1, label=optional, type=message, type_name=".official.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("official.Example"))


def example(features: dict[str, bytes]) -> bytes:
    """An Example of these bytes, with floats and integers among them."""
    made = _example_class()()
    for name, content in features.items():
        made.features.feature[name].bytes_list.value.append(content)
    made.features.feature["0/action"].float_list.value.extend([0.5, -1.0, 2.0, 0.0])
    made.features.feature["length"].int64_list.value.extend([30, 1 << 40])
    return made.SerializeToString()


def episode(seed: int, frames: int = 30) -> dict[str, np.ndarray]:
    """The pictures of both cameras."""
    random = np.random.default_rng(seed)
    return {name: random.integers(0, 256, (frames, 64, 64, 3), np.uint8) for name in ("image_main", "image_aux1")}


def bair(folder: Path, counts: dict[str, tuple[int, ...]]) -> None:
    """softmotion30_44k: files of so many episodes in train and test; episode i of a file has seed 1000 f + i."""
    for part, sizes in counts.items():
        place = folder / "softmotion30_44k" / part
        place.mkdir(parents=True)
        first = 0
        for file, size in enumerate(sizes):
            content = b""
            for number in range(size):
                cameras = episode(1000 * file + number + (500 if part == "test" else 0))
                pictures = {
                    f"{frame}/{name}/encoded": picture.tobytes()
                    for name, film in cameras.items()
                    for frame, picture in enumerate(film)
                }
                content += record(example(pictures))
            (place / f"traj_{first}_to_{first + size - 1}.tfrecords").write_bytes(content)
            first += size


def film(seed: int, frames: int = 20) -> torch.Tensor:
    """A bright block over a ground of its own."""
    generator = torch.Generator().manual_seed(seed)
    ground = torch.randint(60, 120, (3, 4, 6), generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    clip = ground.to(torch.uint8).repeat(frames, 1, 1, 1)
    for frame in range(frames):
        clip[frame, :, 4:12, frame : frame + 8] = 220
    return clip


def ucf101(folder: Path, train: tuple[str, ...], test: tuple[str, ...], others: tuple[str, ...] = ()) -> None:
    """The tree and the lists of split 1; names are like `Archery/v_Archery_g08_c01`. Windows line ends, as there."""
    for seed, name in enumerate((*train, *test, *others)):
        video.write(folder / "UCF-101" / f"{name}.avi", film(seed), 25)
    lists = folder / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    classes = sorted({name.split("/")[0] for name in (*train, *test)})
    label = {name: number for number, name in enumerate(classes, 1)}
    lines = [f"{name}.avi {label[name.split('/')[0]]}\r\n" for name in train]
    (lists / "trainlist01.txt").write_text("".join(lines), newline="")
    (lists / "testlist01.txt").write_text("".join(f"{name}.avi\r\n" for name in test), newline="")


def kinetics600(folder: Path, videos: dict[str, tuple[str, ...]], absent: tuple[str, ...] = ()) -> None:
    """CVDF's layout: names are like `--07WQ2iBlw_000001_000011`; `absent` ones are annotated for train, not there."""
    (folder / "annotations").mkdir(parents=True)
    seed = 0
    for split, names in videos.items():
        lines = ["label,youtube_id,time_start,time_end,split"]
        (folder / split).mkdir()
        for name in (*names, *(absent if split == "train" else ())):
            identity, start, end = name.rsplit("_", 2)
            lines.append(f'"javelin, throw",{identity},{int(start)},{int(end)},{split}')
            if name in names:
                video.write(folder / split / f"{name}.mp4", film(seed), 25)
                seed += 1
        suffix = "csv" if split == "test" else "txt"
        (folder / "annotations" / f"{split}.{suffix}").write_text("\n".join(lines) + "\n", encoding="utf-8")
