"""Read the clips that the stages select for display: galleries of predictions and reconstructions."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int32, UInt8
from safetensors import SafetensorError, safe_open

from components.foundation.errors import InputError
from components.foundation.files import AGAIN, brief


@dataclass(frozen=True, slots=True)
class Gallery:
    """Content of a row's gallery.safetensors. `truth`, `sample` and `canvas` hold the predicted frames only."""

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
    """Content of reconstructions.safetensors: clips before and after a VAE."""

    names: tuple[str, ...]
    truth: UInt8[np.ndarray, "b f c h w"]
    reconstruction: UInt8[np.ndarray, "b f c h w"]


def read_gallery(folder: Path) -> Gallery:
    """Read gallery.safetensors in this folder. Raises InputError if it is missing or damaged, or if shapes disagree."""
    path = folder / "gallery.safetensors"
    texts, tensors = _tensors(path, ("context", "truth", "sample"), ("canvas", "staticness", "order"))
    context, truth, sample = tensors["context"], tensors["truth"], tensors["sample"]
    if context.shape[0] != len(truth) or context.shape[2:] != truth.shape[2:]:
        raise InputError(f"{path}: context {context.shape} does not fit truth {truth.shape}; {AGAIN}")
    _check_shape(path, truth, "sample", sample)
    canvas = tensors.get("canvas")
    if canvas is not None and (len(canvas) != len(truth) or canvas.shape[2:] != truth.shape[2:]):
        raise InputError(f"{path}: canvas {canvas.shape} does not fit truth {truth.shape}; {AGAIN}")
    for name in ("staticness", "order"):
        if name in tensors and (tensors[name].ndim != 4 or len(tensors[name]) != len(truth)):
            raise InputError(f"{path}: {name} has shape {tensors[name].shape}, not ({len(truth)}, t, h, w); {AGAIN}")
    staticness, order = tensors.get("staticness"), tensors.get("order")
    return Gallery(
        texts["names"],
        texts["reasons"],
        context,
        truth,
        sample,
        canvas,
        None if staticness is None else staticness.astype(np.float32),
        None if order is None else order.astype(np.int32),
    )


def read_reconstructions(folder: Path) -> Reconstructions:
    """Read reconstructions.safetensors in this folder. Raises InputError if missing, damaged or of unequal shapes."""
    path = folder / "reconstructions.safetensors"
    texts, tensors = _tensors(path, ("truth", "reconstruction"), ())
    _check_shape(path, tensors["truth"], "reconstruction", tensors["reconstruction"])
    return Reconstructions(texts["names"], tensors["truth"], tensors["reconstruction"])


def _tensors(
    path: Path, needed: tuple[str, ...], optional: tuple[str, ...]
) -> tuple[dict[str, tuple[str, ...]], dict[str, Any]]:
    try:
        with safe_open(path, "numpy") as file:
            stored = set(file.keys())
            tensors = {key: file.get_tensor(key) for key in (*needed, *optional) if key in stored}
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; {AGAIN}") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged ({brief(error)}); {AGAIN}") from None
    for name in needed:
        if name not in tensors:
            raise InputError(f"{path} holds no tensor {name}; {AGAIN}")
    for name in {*needed, "canvas"} & tensors.keys():
        if tensors[name].dtype != np.uint8 or tensors[name].ndim != 5 or tensors[name].shape[2] != 3:
            raise InputError(
                f"{path}: {name} must be uint8 frames (b, f, 3, h, w), "
                f"not {tensors[name].dtype} {tensors[name].shape}; {AGAIN}"
            )
    count = len(tensors[needed[-1]])
    texts = {"names": [f"clip {index}" for index in range(count)], "reasons": [""] * count}
    texts |= json.loads(metadata.get("text", "{}"))
    for key, values in texts.items():
        if len(values) != count:
            raise InputError(f"{path} holds {count} clips but {len(values)} {key}; {AGAIN}")
    return {key: tuple(map(str, values)) for key, values in texts.items()}, tensors


def _check_shape(path: Path, truth: UInt8[np.ndarray, "..."], name: str, tensor: UInt8[np.ndarray, "..."]) -> None:
    if truth.shape != tensor.shape:
        raise InputError(f"{path}: {name} has shape {tensor.shape}, but truth has {truth.shape}; {AGAIN}")
