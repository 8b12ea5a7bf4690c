"""Training checkpoints, each a folder written atomically, and final weights as safetensors, without pickle."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from components.foundation.config import Config, parse, plain
from components.foundation.errors import InputError, writing
from components.foundation.files import sha256, write_json

STATE, FACTS = "state.pt", "facts.json"
WEIGHTS, DESCRIPTION = "weights.safetensors", "config.json"  # files of a folder with final weights
D = TypeVar("D", bound=Config)


class DamagedCheckpointError(InputError):
    """A checkpoint that is incomplete or whose hash differs from the recorded one."""


def save(folder: Path, state: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint: tensors and plain values (`state`), and `facts`, which identify the training run.

    The checkpoint is written to a temporary folder, which is then renamed. An error while writing removes the temporary
    folder and leaves an older checkpoint of this name unchanged.
    """
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        with (aside / STATE).open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())  # the rename must not reach the disk before the data
        content = {**facts, "sha256": sha256(aside / STATE)}
        write_json(aside / FACTS, content)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def load(folder: Path, expect: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return the state in a checkpoint, on the CPU.

    Raises DamagedCheckpointError if the checkpoint is incomplete or damaged, and InputError if it belongs to another
    run: each entry of `expect` must equal the saved one. Errors name the folder, or `where` if the folder is a copy.
    """
    where = where or str(folder)
    try:
        facts = dict(json.loads((folder / FACTS).read_text(encoding="utf-8")))
        written, actual = facts["sha256"], sha256(folder / STATE)
    except (OSError, ValueError, TypeError, KeyError):
        raise DamagedCheckpointError(f"the checkpoint {where} is incomplete; delete it") from None
    if written != actual:
        raise DamagedCheckpointError(
            f"the checkpoint {where} is damaged: its hash is {actual}, not {written}; delete it"
        )
    for key, value in expect.items():
        if facts.get(key) != value:
            raise InputError(
                f"the checkpoint {where} belongs to another run: its {key} is {facts.get(key)!r}, "
                f"but this run's is {value!r}; delete the checkpoint, or restore the parameters of its run"
            )
    return torch.load(folder / STATE, map_location="cpu", weights_only=True)


def describe(folder: Path, description: Config) -> None:
    """Write the description of final weights to config.json in their folder."""
    write_json(folder / DESCRIPTION, plain(description), sort_keys=True)


def description(folder: Path, schema: type[D]) -> D:
    """Return the description of the weights in a folder. Raises InputError if it is missing or has another schema."""
    return parse(schema, described(folder), where=str(folder / DESCRIPTION))


def described(folder: Path) -> dict[str, Any]:
    """Return the description as unchecked plain data. Raises InputError if it is missing or damaged."""
    path = folder / DESCRIPTION
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run `dvc repro` to train the model of this folder") from None
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path} is not valid JSON ({error}); run `dvc repro` to train the model of this folder again"
        ) from None


def identity(folder: Path) -> str:
    """Return a 16-digit hash of the weights in a folder. Raises InputError if the weights are missing."""
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder / WEIGHTS} does not exist; run `dvc repro` to train the model of this folder")
    return sha256(folder / WEIGHTS)[:16]


def save_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> str:
    """Write weights as safetensors, atomically. Return the file's sha256. Raises InputError if writing fails."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in sorted(weights.items())}, aside)
            digest = sha256(aside)
            aside.rename(path)
        finally:
            aside.unlink(missing_ok=True)
    return digest


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights in a safetensors file, by name. Raises InputError if the file is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run `dvc repro` to make it") from None
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a readable weights file ({error}); delete it and run `dvc repro` to make it again"
        ) from None


def load_weights(path: Path, model: torch.nn.Module) -> None:
    """Load the weights in a file into the model.

    Raises InputError if the file is missing or damaged, or if a weight's name or shape does not fit the model.
    """
    weights = read_weights(path)
    own = model.state_dict()
    for name in sorted(own.keys() ^ weights.keys()):
        side = "lacks" if name in own else "has an unknown"
        raise InputError(
            f"{path} {side} weight {name}: the file belongs to another configuration; "
            "restore that configuration or train again"
        )
    for name, tensor in weights.items():
        if own[name].shape != tensor.shape:
            raise InputError(
                f"{path}: weight {name} has shape {tuple(tensor.shape)}, but this configuration needs "
                f"{tuple(own[name].shape)}; restore the file's configuration or train again"
            )
    model.load_state_dict(weights)


def begin_with(path: Path, model: torch.nn.Module, new: Sequence[str]) -> list[str]:
    """Initialise a model with the weights in a file, which may lack some weights of the model.

    Missing weights whose names start with a prefix in `new` keep their initial values. Returns the names of these
    weights. Raises InputError that lists every other weight that is missing, unknown or of another shape.
    """
    weights, own = read_weights(path), model.state_dict()
    fresh = sorted(name for name in own.keys() - weights.keys() if name.startswith(tuple(new)))
    problems = {
        "lacks": sorted(own.keys() - weights.keys() - set(fresh)),
        "has the unknown": sorted(weights.keys() - own.keys()),
        "has another shape of": sorted(n for n in own.keys() & weights.keys() if own[n].shape != weights[n].shape),
    }
    if listed := "; ".join(f"{problem} {', '.join(names)}" for problem, names in problems.items() if names):
        raise InputError(
            f"{path} cannot initialise this model: it {listed}; list the prefixes of new weights in "
            "recipe.new_weights, or start from another model"
        )
    model.load_state_dict(weights, strict=False)
    return fresh
