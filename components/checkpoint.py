"""The state of a training, one folder, written whole or not at all; and finished weights, without any pickle."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from components.config import Config, parse, plain
from components.errors import InputError

STATE, FACTS = "state.pt", "facts.json"
WEIGHTS, DESCRIPTION = "weights.safetensors", "config.json"  # of a folder of finished weights
D = TypeVar("D", bound=Config)


class DamagedCheckpointError(InputError):
    """A state that was torn while it was written, or changed on the disk afterwards."""


def save(folder: Path, state: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Writes tensors and plain values (`state`) and what they belong to (`facts`) aside, then renames the folder.

    Whatever goes wrong, what was written aside is removed and an older folder of this name stays as it was.
    """
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        with (aside / STATE).open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())  # the name must not reach the disk before what it names
        content = {**facts, "sha256": sha256(aside / STATE)}
        (aside / FACTS).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def facts_of(folder: Path) -> dict[str, Any]:
    """What the state in this folder belongs to. Raises DamagedCheckpointError if it does not say."""
    try:
        return dict(json.loads((folder / FACTS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise DamagedCheckpointError(f"the checkpoint {folder} is incomplete; delete it and start again") from None


def load(folder: Path, expect: Mapping[str, Any]) -> dict[str, Any]:
    """The state in this folder, on the CPU.

    Raises DamagedCheckpointError if it is torn or changed, and InputError if it belongs to something else: each fact in
    `expect` must be the one that was saved.
    """
    facts = facts_of(folder)
    try:
        written, actual = facts["sha256"], sha256(folder / STATE)
    except (OSError, KeyError):
        raise DamagedCheckpointError(f"the checkpoint {folder} is incomplete; delete it and start again") from None
    if written != actual:
        raise DamagedCheckpointError(
            f"the checkpoint {folder} is damaged: its hash is {actual}, not {written}; delete it"
        )
    for key, value in expect.items():
        if facts.get(key) != value:
            raise InputError(
                f"the checkpoint {folder} belongs to another run: its {key} is {facts.get(key)!r}, "
                f"here it is {value!r}; delete it or restore the parameters that it was made with"
            )
    return torch.load(folder / STATE, map_location="cpu", weights_only=True)


def describe(folder: Path, description: Config) -> None:
    """Writes beside finished weights what they are."""
    text = json.dumps(plain(description), indent=2, sort_keys=True)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def description(folder: Path, schema: type[D]) -> D:
    """What the weights in this folder are. Raises InputError if it is missing or of another version."""
    return parse(schema, described(folder), where=str(folder / DESCRIPTION))


def described(folder: Path) -> dict[str, Any]:
    """The same as plain data, of whatever kind they are. Raises InputError if it is missing or damaged."""
    path = folder / DESCRIPTION
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run `dvc repro` to train what belongs there") from None
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); train again what belongs there") from None


def identity(folder: Path) -> str:
    """What tells the weights in this folder from all others. Raises InputError if they are missing."""
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder / WEIGHTS} does not exist; run `dvc repro` to train what belongs there")
    return sha256(folder / WEIGHTS)[:16]


def save_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> str:
    """Writes weights as safetensors, written aside and renamed; returns their sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in sorted(weights.items())}, aside)
    digest = sha256(aside)
    aside.rename(path)
    return digest


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a safetensors file. Raises InputError if it is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run the stage that makes it") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is no readable weights file ({error}); delete it and make it again") from None


def load_weights(path: Path, model: torch.nn.Module) -> None:
    """Fills the model with the weights in this file.

    Raises InputError if the file is missing, damaged, or of a model with other parts or sizes.
    """
    weights = read_weights(path)
    own = model.state_dict()
    for name in sorted(own.keys() ^ weights.keys()):
        side = "lacks" if name in own else "has an unknown"
        raise InputError(f"{path} {side} weight {name}: it belongs to another configuration; train again or restore it")
    for name, tensor in weights.items():
        if own[name].shape != tensor.shape:
            raise InputError(
                f"{path}: weight {name} is {tuple(tensor.shape)}, this configuration needs {tuple(own[name].shape)}; "
                "train again or restore the configuration"
            )
    model.load_state_dict(weights)


def begin_with(path: Path, model: torch.nn.Module, new: Sequence[str]) -> list[str]:
    """Fills the model with the weights of another one, from which it may differ by some new weights.

    New ones whose names begin like one of `new` stay as they are, fresh; returns their names. Raises InputError that
    names every other weight that is missing, unknown or of another size.
    """
    weights, own = read_weights(path), model.state_dict()
    fresh = sorted(name for name in own.keys() - weights.keys() if name.startswith(tuple(new)))
    problems = {
        "lacks": sorted(own.keys() - weights.keys() - set(fresh)),
        "has besides": sorted(weights.keys() - own.keys()),
        "has in another size": sorted(n for n in own.keys() & weights.keys() if own[n].shape != weights[n].shape),
    }
    if found := "; ".join(f"{what} {', '.join(names)}" for what, names in problems.items() if names):
        raise InputError(
            f"{path} cannot be begun with: it {found}; list what is new in recipe.start.new, "
            "or begin with another model"
        )
    model.load_state_dict(weights, strict=False)
    return fresh


def sha256(path: Path) -> str:
    """The hash of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
