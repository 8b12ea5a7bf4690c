"""Checkpoints in an object store, and what is said if it cannot be used."""

import pickle
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from components.foundation import checkpoint
from components.foundation.errors import InputError
from components.training.checkpoints import CheckpointManager
from components.training.storage import Storage
from tests.conftest import set_free_requests

IDENTITY = {"params": "abc"}
URI = "s3://bucket/of/mine"


def state(step: int) -> dict[str, Any]:
    return {"step": step, "model": {"w": torch.full((64,), float(step))}}


def manager(storage: Storage, **identity: str) -> CheckpointManager:
    return CheckpointManager(storage, IDENTITY | identity, {})


def test_what_one_process_writes_to_an_object_store_another_one_resumes(s3: Any) -> None:
    storage = pickle.loads(pickle.dumps(Storage.at(URI, "run")))  # as Ray sends it to the workers
    storage.check()
    assert manager(storage).newest(print) is None
    for step in (10, 20):
        manager(storage).prepare(step, state(step), {}).write()
    assert Storage.at(URI, "run").names("checkpoint_") == ["checkpoint_000000010", "checkpoint_000000020"]
    found = manager(Storage.at(URI, "run")).newest(print)
    assert found is not None
    assert found[0] == "checkpoint_000000020"
    assert torch.equal(found[1]["model"]["w"], state(20)["model"]["w"])
    with pytest.raises(InputError, match="checkpoint s3://bucket/of/mine/run/checkpoint_000000020 belongs to another"):
        manager(storage, params="xyz").newest(print)
    storage.remove()
    assert manager(storage).newest(print) is None


@pytest.mark.parametrize("file", [checkpoint.STATE, checkpoint.FACTS])
@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_upload_is_named_and_the_one_before_it_taken(s3: Any, file: str, damage: str) -> None:
    storage = Storage.at(URI, "run")
    for step in (10, 20):
        manager(storage).prepare(step, state(step), {}).write()
    path = f"{storage.path}/checkpoint_000000020/{file}"
    if damage == "missing":
        storage.filesystem.delete_file(path)
    else:
        content = storage.filesystem.open_input_stream(path).read()
        with storage.filesystem.open_output_stream(path) as stream:
            stream.write(content[:-50])
    warnings: list[str] = []
    found = manager(storage).newest(warnings.append)
    assert found is not None
    assert found[1]["step"] == 10
    assert "the checkpoint s3://bucket/of/mine/run/checkpoint_000000020 is " in warnings[0]


def test_no_copy_is_left_on_this_machine(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    manager(Storage.at(URI, "run")).prepare(10, state(10), {}).write()
    assert manager(Storage.at(URI, "run")).newest(print) is not None
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_key_a_missing_bucket_and_a_server_that_is_gone_are_one_sentence_each(s3: Any) -> None:
    with pytest.raises(InputError, match=r"s3://no-bucket/x/run cannot be read or written \(.*'no-bucket' not found"):
        Storage.at("s3://no-bucket/x", "run").check()
    storage = Storage.at(URI, "run")
    storage.check()
    set_free_requests(s3, "0")
    with pytest.raises(InputError, match=r"s3://bucket/of/mine/run cannot be read or written \(.*ACCESS_DENIED"):
        storage.check()
    s3.stop()
    pending = manager(storage)
    with pytest.raises(InputError, match=r"cannot be read or written \(.*NETWORK_CONNECTION") as caught:
        pending.newest(print)
    assert "the same command resumes from the last checkpoint there" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_uri_of_no_file_system_is_refused_without_showing_its_password() -> None:
    for uri in ("nowhere://me:secret@bucket/x", "fsspec+nowhere://me:secret@bucket"):
        with pytest.raises(InputError, match="use a path or a URI such as s3://bucket/path") as caught:
            Storage.at(uri, "run")
        assert "secret" not in str(caught.value)
    assert "secret" not in str(Storage.at("s3://me:secret@bucket/x?region=here", "run"))


def test_a_path_is_a_folder_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Storage.at("scratch", "run").folder == tmp_path / "scratch" / "run"
    assert Storage.at("~/scratch", "run").folder == tmp_path / "home" / "scratch" / "run"
    assert Storage.at(f"file://{tmp_path}", "run").folder == tmp_path / "run"
    storage = Storage.at(str(tmp_path / "file" / "x"), "run")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/x/run cannot be read or written"):
        storage.check()
