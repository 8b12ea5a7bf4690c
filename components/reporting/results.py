"""What the stages left behind, read and checked: scores, galleries, histories, trials, videos, reconstructions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Float, Int32, UInt8
from safetensors import SafetensorError, safe_open

from components.errors import InputError

AGAIN: Final = "run `dvc repro` to make it again"
REFERENCES: Final[Mapping[str, str]] = {
    "real against real": "two sets of real clips: what the distance reads when nothing is wrong",
    "VAE reconstruction": "real clips, encoded and decoded: the loss that every prediction on these latents inherits",
    "copy last frame": "the context's last frame, held: what a model that has learned nothing reaches",
    "truth": "the real continuation itself",
}
_TRIAL_RESULTS: Final = (
    "trial", "fvd", "fvd_low", "fvd_high", "milliseconds_per_frame", "gigaflops_per_frame", "step", "seconds", "front",
    "status", "error",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Score:
    """A line of scores.json; numbers that were not measured are absent."""

    name: str
    numbers: dict[str, float]

    @property
    def reference(self) -> bool:
        """Whether this line belongs to the protocol, and not to a model."""
        return self.name in REFERENCES


@dataclass(frozen=True, slots=True)
class Window:
    """The scores of a line of scores.json in some of its frames, counted from the first predicted one."""

    name: str
    first: int
    last: int
    numbers: dict[str, float]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """scores.json of a row."""

    row: str
    protocol: dict[str, Any]
    scores: tuple[Score, ...]
    milliseconds_per_frame: float | None
    parameters: float | None
    sampler: dict[str, Any]
    drift: tuple[Window, ...]
    calibration: dict[str, Any] | None  # of the canvas and its staticness; None without a canvas

    def line(self, name: str) -> Score | None:
        """The scores of this name, if there are any."""
        return next((score for score in self.scores if score.name == name), None)


@dataclass(frozen=True, slots=True)
class Gallery:
    """gallery.safetensors of a row: clips to look at. `truth`, `sample` and `canvas` hold the predicted frames only."""

    names: tuple[str, ...]
    reasons: tuple[str, ...]  # why each clip is shown
    context: UInt8[np.ndarray, "b ... c h w"]
    truth: UInt8[np.ndarray, "b f c h w"]
    sample: UInt8[np.ndarray, "b f c h w"]
    canvas: UInt8[np.ndarray, "b ... c h w"] | None
    staticness: Float[np.ndarray, "b t ..."] | None  # in [0, 1], on the grid of tokens
    order: Int32[np.ndarray, "b t ..."] | None  # the set in which each token was generated, from 0


@dataclass(frozen=True, slots=True)
class Reconstructions:
    """reconstructions.safetensors of a VAE: clips before and after."""

    names: tuple[str, ...]
    truth: UInt8[np.ndarray, "b f c h w"]
    reconstruction: UInt8[np.ndarray, "b f c h w"]


@dataclass(frozen=True, slots=True)
class Sweep:
    """trials.csv and best.json of a search; trials without a score have failed."""

    trials: pd.DataFrame
    parameters: tuple[str, ...]  # columns of `trials` that took more than one value
    best: str  # the winning trial
    chosen: dict[str, Any]
    objective: str  # what the winner was chosen by, a column of `trials`


@dataclass(frozen=True, slots=True)
class Videos:
    """manifest.json and rejected.json of the clips."""

    videos: int
    clips: dict[str, int]  # by split
    rejected: pd.DataFrame  # split, video, reason
    doubtful: pd.DataFrame


def read_evaluation(folder: Path) -> Evaluation:
    """scores.json in this folder. Raises InputError if it is missing or damaged."""
    path = folder / "scores.json"
    content = read_json(path)
    try:
        scores = tuple(Score(str(entry["name"]), _numbers(entry, {"name"})) for entry in content["scores"])
        speed = _numbers(content, set(content) - {"milliseconds_per_frame", "parameters"})
        row, protocol, sampler = str(content["row"]), dict(content["protocol"]), dict(content["sampler"])
        drift = tuple(
            Window(
                str(entry["name"]),
                int(entry["first"]),
                int(entry["last"]),
                _numbers(entry, {"name", "first", "last"}),
            )
            for entry in content["drift"]
        )
        calibration = None if content["calibration"] is None else dict(content["calibration"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a table of scores ({_told(error)}); {AGAIN}") from None
    if all(score.reference for score in scores):
        raise InputError(f"{path} holds no score of a model; {AGAIN}")
    milliseconds, parameters = speed.get("milliseconds_per_frame"), speed.get("parameters")
    return Evaluation(row, protocol, scores, milliseconds, parameters, sampler, drift, calibration)


def read_gallery(folder: Path) -> Gallery:
    """gallery.safetensors in this folder. Raises InputError if it is missing, damaged or its shapes disagree."""
    path = folder / "gallery.safetensors"
    words, tensors = _tensors(path, ("context", "truth", "sample"), ("canvas", "staticness", "order"))
    context, truth, sample = tensors["context"], tensors["truth"], tensors["sample"]
    if context.shape[0] != len(truth) or context.shape[2:] != truth.shape[2:]:
        raise InputError(f"{path}: context {context.shape} and truth {truth.shape} are not of the same clips; {AGAIN}")
    _alike(path, truth, "sample", sample)
    canvas = tensors.get("canvas")
    if canvas is not None and (len(canvas) != len(truth) or canvas.shape[2:] != truth.shape[2:]):
        raise InputError(f"{path}: canvas {canvas.shape} and truth {truth.shape} are not of the same clips; {AGAIN}")
    for name in ("staticness", "order"):
        if name in tensors and (tensors[name].ndim != 4 or len(tensors[name]) != len(truth)):
            raise InputError(f"{path}: {name} {tensors[name].shape} is no map for each of {len(truth)} clips; {AGAIN}")
    staticness, order = tensors.get("staticness"), tensors.get("order")
    return Gallery(
        words["names"],
        words["reasons"],
        context,
        truth,
        sample,
        canvas,
        None if staticness is None else staticness.astype(np.float32),
        None if order is None else order.astype(np.int32),
    )


def read_reconstructions(folder: Path) -> Reconstructions:
    """reconstructions.safetensors in this folder. Raises InputError if it is missing, damaged or of unlike shapes."""
    path = folder / "reconstructions.safetensors"
    words, tensors = _tensors(path, ("truth", "reconstruction"), ())
    _alike(path, tensors["truth"], "reconstruction", tensors["reconstruction"])
    return Reconstructions(words["names"], tensors["truth"], tensors["reconstruction"])


def read_history(folder: Path) -> pd.DataFrame:
    """history.csv in this folder, one line an interval, NaN where nothing was measured.

    Raises InputError if it is missing, damaged, empty or without steps.
    """
    path = folder / "history.csv"
    history = _table(path)
    if "step" not in history or history.empty:
        raise InputError(f"{path} holds no steps; {AGAIN}")
    words = [name for name in history if not pd.api.types.is_numeric_dtype(history[name])]
    if words:
        raise InputError(f"{path}: the column {words[0]} holds something that is no number; {AGAIN}")
    return history.sort_values("step", kind="stable", ignore_index=True)


def read_sweep(folder: Path) -> Sweep:
    """trials.csv and best.json in this folder. Raises InputError if one is missing, damaged or has no scored trial."""
    path = folder / "trials.csv"
    trials, chosen = _table(path), read_json(folder / "best.json")
    objective = next(iter(chosen.get("objectives", {"fvd": None})))
    missing = [name for name in ("trial", objective, "status") if name not in trials]
    if missing:
        raise InputError(f"{path} has no column {missing[0]}; {AGAIN}")
    trials["trial"] = trials["trial"].astype(str)
    trials[objective] = pd.to_numeric(trials[objective], errors="coerce")
    if trials[objective].isna().all():
        raise InputError(f"{path} holds no trial with a score; see the failed trials, then {AGAIN}")
    asked = [str(name) for name in trials if name not in _TRIAL_RESULTS and not str(name).startswith("validation_")]
    varied = tuple(name for name in asked if trials[name].nunique(dropna=False) > 1)
    best = str(chosen.get("trial", trials["trial"].iloc[int(trials[objective].argmin())]))
    return Sweep(trials, varied, best, chosen, str(objective))


def read_videos(folder: Path) -> Videos:
    """manifest.json and rejected.json in this folder. Raises InputError if one is missing or damaged."""
    manifest, told = read_json(folder / "manifest.json"), read_json(folder / "rejected.json")
    columns = ["split", "video", "reason"]
    try:
        counts = {str(split): int(count) for split, count in manifest["counts"].items()}
        rejected, doubtful = (pd.DataFrame(told[key], columns=columns) for key in ("rejected", "doubtful"))
        return Videos(int(told["videos"]), counts, rejected, doubtful)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{folder} holds no manifest and rejections of clips ({_told(error)}); {AGAIN}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping. Raises InputError if it is missing, damaged or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; {AGAIN}") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not valid JSON ({_told(error)}); {AGAIN}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a mapping, not {type(content).__name__}; {AGAIN}")
    return content


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; {AGAIN}") from None
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise InputError(f"{path} is not a readable table ({_told(error)}); {AGAIN}") from None


def _tensors(
    path: Path, needed: tuple[str, ...], known: tuple[str, ...]
) -> tuple[dict[str, tuple[str, ...]], dict[str, Any]]:
    try:
        with safe_open(path, "numpy") as file:
            held = set(file.keys())
            tensors = {key: file.get_tensor(key) for key in (*needed, *known) if key in held}
            words = file.metadata() or {}
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; {AGAIN}") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged ({_told(error)}); {AGAIN}") from None
    for name in needed:
        if name not in tensors:
            raise InputError(f"{path} holds no {name}; {AGAIN}")
    for name in {*needed, "canvas"} & tensors.keys():
        if tensors[name].dtype != np.uint8 or tensors[name].ndim != 5 or tensors[name].shape[2] != 3:
            raise InputError(
                f"{path}: {name} must be uint8 frames (b, f, 3, h, w), not {_form(tensors[name])}; {AGAIN}"
            )
    count = len(tensors[needed[-1]])
    told = {key: json.loads(words[key]) for key in ("names", "reasons") if key in words}
    told = {"names": [f"clip {index}" for index in range(count)], "reasons": [""] * count} | told
    for key, values in told.items():
        if len(values) != count:
            raise InputError(f"{path} holds {count} clips and {len(values)} {key}; {AGAIN}")
    return {key: tuple(map(str, values)) for key, values in told.items()}, tensors


def _alike(path: Path, truth: UInt8[np.ndarray, "..."], name: str, other: UInt8[np.ndarray, "..."]) -> None:
    if truth.shape != other.shape:
        raise InputError(f"{path}: {name} has the shape {other.shape} and truth {truth.shape}; {AGAIN}")


def _form(array: Any) -> str:
    return f"{array.dtype} {array.shape}"


def _numbers(entry: Mapping[str, Any], without: set[str]) -> dict[str, float]:
    return {key: float(value) for key, value in entry.items() if key not in without and value is not None}


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
