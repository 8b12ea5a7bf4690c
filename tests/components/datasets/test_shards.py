import json
import pickle
import threading

import pytest
import torch
from safetensors.torch import load_file

from components.datasets import shards
from components.datasets.shards import Manifest, Rows
from components.foundation.errors import InputError
from components.foundation.files import write_text


@pytest.fixture
def rows():
    return torch.arange(7 * 2 * 3, dtype=torch.float32).reshape(7, 2, 3)


@pytest.fixture
def folder(tmp_path, rows):
    parts = [
        shards.write_rows(tmp_path, "train", 2, rows[4:6]),
        shards.write_rows(tmp_path, "train", 0, rows[:4]),
        shards.write_rows(tmp_path, "test", 0, rows[6:]),
    ]
    files = {"notes.txt": write_text(tmp_path / "notes.txt", "all is well\n")}
    present = shards.ordered(parts)
    shards.write_manifest(tmp_path, Manifest(shards=present, counts=shards.counts(present), files=files))
    return tmp_path


def open_rows(folder, split="train"):
    return Rows(folder, shards.read_manifest(Manifest, folder), split, (2, 3), torch.float32)


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_rows_come_in_the_order_asked_whatever_shard_holds_them(folder, rows):
    stored = open_rows(folder)
    assert len(stored) == 6
    wanted = [5, 0, 4, 0, 3]
    assert torch.equal(stored.read(wanted), rows[wanted])
    assert stored.read([]).shape == (0, 2, 3)
    assert [(shard.index, row) for shard, row in map(stored.locate, (0, 3, 4, 5))] == [(0, 0), (0, 3), (2, 0), (2, 1)]


@pytest.mark.parametrize("index", [-1, 6])
def test_a_row_outside_the_split_is_an_index_error(folder, index):
    with pytest.raises(IndexError, match=f"row {index} of 6"):
        open_rows(folder).read([0, index])


def test_rows_read_the_same_after_pickling_and_in_another_thread(folder, rows):
    stored = open_rows(folder)
    stored.read([0])
    seen = [pickle.loads(pickle.dumps(stored)).read([5])]
    thread = threading.Thread(target=lambda: seen.append(stored.read([5])))
    thread.start()
    thread.join()
    assert all(torch.equal(read, rows[5:6]) for read in seen)
    assert len(seen) == 2


def test_what_is_read_is_a_copy(folder, rows):
    stored = open_rows(folder)
    stored.read([0]).zero_()
    assert torch.equal(stored.read([0]), rows[:1])


def test_a_folder_holds_nothing_but_finished_files(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "notes.txt",
        "test-00000.safetensors",
        "train-00000.safetensors",
        "train-00002.safetensors",
    ]


def test_an_interrupted_write_leaves_the_old_file_whole(folder, rows):
    stored = open_rows(folder)
    aside = folder / ".train-00000.safetensors.partial"
    aside.mkdir()  # what cannot be written aside is never renamed
    with pytest.raises(Exception, match="directory"):
        shards.write_rows(folder, "train", 0, rows[:1])
    assert torch.equal(stored.read([3]), rows[3:4])


def test_verify_names_the_shard_with_a_flipped_bit(folder):
    open_rows(folder).verify()
    flip(folder / "train-00002.safetensors", -3)
    with pytest.raises(InputError, match=r"train-00002\.safetensors is damaged: its sha256 is \w{64} instead of"):
        open_rows(folder).verify()
    open_rows(folder, "test").verify()


def test_verify_looks_at_the_other_files_too(folder):
    flip(folder / "notes.txt", 0)
    with pytest.raises(InputError, match=r"notes\.txt is damaged"):
        open_rows(folder).verify()
    (folder / "notes.txt").unlink()
    with pytest.raises(InputError, match=r"notes\.txt is missing"):
        open_rows(folder).verify()


def test_a_shard_that_is_missing_or_cut_short_is_named_on_opening(folder):
    path = folder / "train-00000.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match=rf"train-00000\.safetensors has {size - 5} bytes instead of {size}"):
        open_rows(folder)
    path.unlink()
    with pytest.raises(InputError, match=r"train-00000\.safetensors is missing"):
        open_rows(folder)


def test_a_flipped_bit_is_named_by_the_first_read_of_its_shard_and_by_no_other(folder):
    flip(folder / "train-00000.safetensors", -1)
    stored = open_rows(folder)
    with pytest.raises(InputError, match=r"train-00000\.safetensors is damaged: its sha256"):
        stored.read([5, 0])
    assert len(stored.read([5])) == 1


def test_a_shard_with_another_number_of_rows_than_listed_is_named_on_reading(folder):
    manifest = shards.read_manifest(Manifest, folder)
    first, *others = manifest.shards
    more = manifest.model_copy(update={"shards": (first.model_copy(update={"rows": 5}), *others)})
    with pytest.raises(InputError, match=r"train-00000\.safetensors holds 4 rows instead of 5"):
        Rows(folder, more, "train", (2, 3), torch.float32).read([4])


def test_a_shard_with_a_damaged_header_is_named_on_reading(folder):
    flip(folder / "train-00000.safetensors", 9)
    with pytest.raises(InputError, match=r"train-00000\.safetensors is damaged"):
        open_rows(folder).read([0])


def test_a_shard_of_other_rows_is_named_on_reading(folder):
    manifest = shards.read_manifest(Manifest, folder)
    with pytest.raises(InputError, match=r"rows of shape \(2, 3\) instead of \(3, 2\)"):
        Rows(folder, manifest, "train", (3, 2), torch.float32).read([0])


def test_splits_that_are_empty_or_unknown_are_told_apart(folder):
    assert shards.read_manifest(Manifest, folder).counts == {"train": 6, "val": 0, "test": 1}
    with pytest.raises(InputError, match=r"the split val of .* is empty"):
        open_rows(folder, "val")
    with pytest.raises(InputError, match="no split 'valid'; choose one of train, val, test"):
        open_rows(folder, "valid")


def test_a_manifest_that_is_missing_damaged_or_changed_is_refused(folder):
    path = folder / "manifest.json"
    content = path.read_text()
    path.write_text(content.replace('"rows": 4', '"rows": 3'))
    with pytest.raises(InputError, match="does not match the hash in it"):
        open_rows(folder)
    for damaged in (content[:-20], "[1]", "{}", '{"hash": 1}'):
        path.write_text(damaged)
        with pytest.raises(InputError, match=r"manifest\.json( is damaged|: missing key)"):
            open_rows(folder)
    path.write_text(json.dumps({**json.loads(content), "surplus": 1}))
    with pytest.raises(InputError, match="unknown key surplus"):
        open_rows(folder)
    path.unlink()
    with pytest.raises(InputError, match=r"manifest\.json does not exist; choose another folder"):
        open_rows(folder)


def test_one_shard_reported_twice_is_a_mistake(tmp_path, rows):
    shard = shards.write_rows(tmp_path, "train", 0, rows)
    with pytest.raises(ValueError, match="the same shard train-00000"):
        shards.ordered([shard, None, shard])


def test_rows_that_come_one_after_another_are_the_file_that_all_at_once_give(tmp_path, rows):
    whole = shards.write_rows(tmp_path / "whole", "train", 0, rows)
    with shards.spool(tmp_path / "spooled", "train", 0) as spool:
        spool.append(rows[:3])
        spool.append(rows[5:])
        spool.back(3)
        spool.append(rows[3:6])
        spool.append(rows[6:])
        assert spool.close() == whole
    assert {path.name: path.read_bytes() for path in (tmp_path / "spooled").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()
    }


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.bfloat16])
def test_safetensors_reads_what_was_spooled(tmp_path, rows, dtype):
    shard = shards.write_rows(tmp_path, "val", 3, rows.to(dtype))
    (found,) = load_file(tmp_path / shard.file).values()
    assert found.dtype == dtype
    assert torch.equal(found, rows.to(dtype))
    assert [int(row.sum()) for row in shards.some(tmp_path / shard.file, [6, 0])] == [231, 15]


def test_a_shard_that_was_not_closed_leaves_nothing(tmp_path, rows):
    with shards.spool(tmp_path, "train", 0) as spool:
        spool.append(rows)
    assert list(tmp_path.iterdir()) == []


def test_a_shard_has_rows_of_one_kind(tmp_path, rows):
    with shards.spool(tmp_path, "train", 0) as spool:
        spool.append(rows)
        with pytest.raises(ValueError, match="rows of"):
            spool.append(rows[:, :1])
