"""Read and check the outputs of the stages: scores, galleries, histories, trials, videos, reconstructions."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from components.foundation.errors import InputError
from components.foundation.files import AGAIN, brief, read_json

REFERENCES: Final[Mapping[str, str]] = {
    "real against real": "two disjoint sets of real clips: the distance between samples of one distribution",
    "VAE reconstruction": "real clips, encoded and decoded: the error that every prediction on these latents inherits",
    "copy last frame": "the last context frame, repeated: the score of a model that has learned nothing",
    "copy last frame, VAE": "the last context frame, encoded with its context, decoded and repeated: the score of a "
    "model that has learned nothing on these latents",
    "truth": "the real continuation",
}
_TRIAL_RESULTS: Final = (
    "trial", "fvd", "fvd_low", "fvd_high", "fvd_difference", "fvd_difference_low", "fvd_difference_high",
    "milliseconds_per_frame", "gigaflops_per_frame", "step", "seconds", "front",
    "status", "error",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Score:
    """A line of scores.json; metrics that were not measured are absent."""

    name: str
    metrics: dict[str, float]

    @property
    def reference(self) -> bool:
        """Whether this line is a reference of the protocol, not a model."""
        return self.name in REFERENCES


@dataclass(frozen=True, slots=True)
class Window:
    """Scores of frames `first` to `last`, counted from the first predicted frame; from scores.json."""

    name: str
    first: int
    last: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Content of a row's scores.json."""

    row: str
    protocol: dict[str, Any]
    scores: tuple[Score, ...]
    milliseconds_per_frame: float | None
    parameters: float | None
    sampler: dict[str, Any]
    drift: tuple[Window, ...]
    calibration: dict[str, Any] | None  # of canvas and staticness; None without a canvas

    def line(self, name: str) -> Score | None:
        """Return the scores with this name, or None."""
        return next((score for score in self.scores if score.name == name), None)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Content of trials.csv and best.json of a search; trials without a score have failed."""

    trials: pd.DataFrame
    parameters: tuple[str, ...]  # columns of `trials` that took more than one value
    best: str  # the winning trial
    chosen: dict[str, Any]
    objective: str  # the first objective of the search, a column of `trials`


@dataclass(frozen=True, slots=True)
class Videos:
    """Content of manifest.json and rejected.json of a dataset of clips."""

    videos: int
    clips: dict[str, int]  # by split
    rejected: pd.DataFrame  # split, video, reason
    doubtful: pd.DataFrame


def read_evaluation(folder: Path) -> Evaluation:
    """Read scores.json in this folder. Raises InputError if it is missing or damaged."""
    path = folder / "scores.json"
    content = read_json(path)
    try:
        scores = tuple(Score(str(entry["name"]), _metrics(entry, {"name"})) for entry in content["scores"])
        speed = _metrics(content, set(content) - {"milliseconds_per_frame", "parameters"})
        row, protocol, sampler = str(content["row"]), dict(content["protocol"]), dict(content["sampler"])
        drift = tuple(
            Window(
                str(entry["name"]),
                int(entry["first"]),
                int(entry["last"]),
                _metrics(entry, {"name", "first", "last"}),
            )
            for entry in content["drift"]
        )
        calibration = None if content["calibration"] is None else dict(content["calibration"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not have the format of scores.json ({brief(error)}); {AGAIN}") from None
    if all(score.reference for score in scores):
        raise InputError(f"{path} has scores of reference rows only, and none of a model; {AGAIN}")
    milliseconds, parameters = speed.get("milliseconds_per_frame"), speed.get("parameters")
    return Evaluation(row, protocol, scores, milliseconds, parameters, sampler, drift, calibration)


def read_history(folder: Path) -> pd.DataFrame:
    """Read history.csv in this folder: one row per logged step, NaN where a term was not measured.

    Raises InputError if it is missing, damaged, empty or has no column `step`.
    """
    path = folder / "history.csv"
    history = _table(path)
    if "step" not in history or history.empty:
        raise InputError(f"{path} has no column step or no rows; {AGAIN}")
    other = [name for name in history if not pd.api.types.is_numeric_dtype(history[name])]
    if other:
        raise InputError(f"{path}: the column {other[0]} holds a value that is not a number; {AGAIN}")
    return history.sort_values("step", kind="stable", ignore_index=True)


def read_sweep(folder: Path) -> Sweep:
    """Read trials.csv and best.json in this folder. Raises InputError if missing, damaged or without a scored trial."""
    path = folder / "trials.csv"
    trials, chosen = _table(path), read_json(folder / "best.json")
    objective = next(iter(chosen.get("objectives", {"fvd": None})))
    missing = [name for name in ("trial", objective, "status") if name not in trials]
    if missing:
        raise InputError(f"{path} has no column {missing[0]}; {AGAIN}")
    trials["trial"] = trials["trial"].astype(str)
    trials[objective] = pd.to_numeric(trials[objective], errors="coerce")
    if trials[objective].isna().all():
        raise InputError(f"{path} has no trial with a score; fix the errors in its column error, then {AGAIN}")
    settings = [str(name) for name in trials if name not in _TRIAL_RESULTS and not str(name).startswith("validation_")]
    varied = tuple(name for name in settings if trials[name].nunique(dropna=False) > 1)
    best = str(chosen.get("trial", trials["trial"].iloc[int(trials[objective].argmin())]))
    return Sweep(trials, varied, best, chosen, str(objective))


def read_videos(folder: Path) -> Videos:
    """Read manifest.json and rejected.json in this folder. Raises InputError if one is missing or damaged."""
    manifest, report = read_json(folder / "manifest.json"), read_json(folder / "rejected.json")
    columns = ["split", "video", "reason"]
    try:
        counts = {str(split): int(count) for split, count in manifest["counts"].items()}
        rejected, doubtful = (pd.DataFrame(report[key], columns=columns) for key in ("rejected", "doubtful"))
        return Videos(int(report["videos"]), counts, rejected, doubtful)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"{folder}: manifest.json or rejected.json does not have the expected format ({brief(error)})"
        raise InputError(f"{message}; {AGAIN}") from None


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; {AGAIN}") from None
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise InputError(f"{path} is not valid CSV ({brief(error)}); {AGAIN}") from None


def _metrics(entry: Mapping[str, Any], without: set[str]) -> dict[str, float]:
    return {key: float(value) for key, value in entry.items() if key not in without and value is not None}
