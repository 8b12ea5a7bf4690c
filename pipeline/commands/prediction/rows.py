"""Find what a row needs to predict: the row that this project has trained, or else the weights that come with the code.

The folder `pretrained` holds weights of one row in git, so that a fresh clone can predict. No stage reads it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from components.datasets import shards
from components.datasets.clips import ClipsManifest
from components.foundation import checkpoint, config
from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.files import read_json
from components.foundation.settings.ranges import Positive
from components.models.serialization import ModelDescription
from components.sampling.frame import SamplerConfig
from pipeline.commands.prediction import familiarity

SHIPPED: Final = "pretrained"  # folder of the project
MODEL, AUTOENCODER, SETTINGS, EXAMPLE, ACTIONS = "model", "autoencoder", "row.json", "example.mp4", "actions.csv"


class ShippedRow(Config):
    """Content of row.json of shipped weights."""

    sampler: SamplerConfig
    fps: Positive | None  # frames per second of the training clips; None if unknown or varied
    surprise: Positive | None  # the largest of validation clips; see `familiarity`


@dataclass(frozen=True, slots=True)
class Row:
    """The folders and settings of a row that can predict."""

    name: str
    model: Path
    autoencoder: Path
    sampler: SamplerConfig
    fps: float | None  # frames per second of the training clips; None if unknown or varied
    surprise: float | None  # the largest of validation clips; None if unknown
    shipped: bool  # whether the weights come with the code

    @property
    def notice(self) -> str | None:
        """A sentence about weights that this project has not trained; None for those that it has."""
        return f"{self.name} is not trained here, so the weights in {self.model.parent} are used" * self.shipped or None


def trained(folder: Path | str) -> list[str]:
    """Return the names of the trained rows of the project in this folder."""
    return sorted(path.parent.name for path in (Path(folder) / "data" / "models").glob(f"*/{checkpoint.WEIGHTS}"))


def shipped(folder: Path | str) -> list[str]:
    """Return the names of the rows whose weights come with the code of the project in this folder."""
    return sorted(path.parent.name for path in (Path(folder) / SHIPPED).glob(f"*/{SETTINGS}"))


def find(folder: Path | str, name: str) -> Row:
    """Return a trained row of the project in `folder`, or else the shipped row. Raise InputError if there is neither.

    The sampler settings are those that the row's search chose.
    """
    data, place = Path(folder) / "data", Path(folder) / SHIPPED / name
    model = data / "models" / name
    if model.is_dir():
        best = data / "searches" / name / "best.json"
        sampler = config.parse(SamplerConfig, read_json(best)["sampler"], where=str(best))
        description = checkpoint.description(model, ModelDescription)
        vae = autoencoder(data, model, description.autoencoder)
        rate, surprise = training_rate(data, description.clips), familiarity.largest(data, description)
        return Row(name, model, vae, sampler, rate, surprise, shipped=False)
    if name in shipped(folder):
        settings = config.parse(ShippedRow, read_json(place / SETTINGS), where=str(place / SETTINGS))
        parts = (place / MODEL, place / AUTOENCODER, settings.sampler, settings.fps, settings.surprise)
        return Row(name, *parts, shipped=True)
    known = ", ".join(trained(folder)) or "none"
    others = f"; rows with shipped weights: {', '.join(shipped(folder))}" if shipped(folder) else ""
    raise InputError(f"row {name!r} is not trained; trained rows: {known}{others}; choose one, or run `make repro`")


def autoencoder(data: Path, model: Path, identity: str) -> Path:
    """Return the folder of the VAE with this identity. Raise InputError if there is none."""
    for folder in sorted((data / "autoencoders").glob("*")):
        if (folder / checkpoint.WEIGHTS).is_file() and checkpoint.identity(folder) == identity:
            return folder
    raise InputError(f"{data / 'autoencoders'} lacks the VAE that {model} was trained with; run `dvc repro`")


def training_rate(data: Path, clips: str) -> float | None:
    """Return the frames per second of the clips with this hash; None if the clips are not here or their rates vary."""
    for folder in sorted((data / "clips").glob("*")):
        try:
            manifest = shards.read_manifest(ClipsManifest, folder)
            rates: dict[str, Any] = json.loads((folder / "rejected.json").read_text(encoding="utf-8"))["rates"]
        except (InputError, OSError, ValueError, KeyError):
            continue  # clips that are being made, or damaged: a rate is worth less than a prediction
        if manifest.hash == clips:
            fps = manifest.cut.get("fps") or (next(iter(rates)) if len(rates) == 1 else None)
            try:
                return None if fps is None else float(fps) / int(manifest.cut["stride"])
            except ValueError:  # "variable" or "unknown"
                return None
    return None


def example(folder: Path | str, name: str) -> tuple[Path, Path | None]:
    """Return the example video of a shipped row, and its actions if it has any. Raise InputError if there is none."""
    place = Path(folder) / SHIPPED / name
    if not (place / EXAMPLE).is_file():
        raise InputError(f"{name} has no example video in {place}; name a video: canvasmar predict VIDEO --row {name}")
    return place / EXAMPLE, place / ACTIONS if (place / ACTIONS).is_file() else None
