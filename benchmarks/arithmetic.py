"""Floating-point operations (FLOP) of CanvasMAR by part, in closed form; a multiply-add counts as two.

Only matrix products are counted. The backward pass costs twice the forward pass, or as much as the forward pass if the
input needs no gradient (latents, sinusoids). Attention is counted without its mask, as the kernels compute it.
"""

from dataclasses import dataclass

from components.models import flow, guidance, masking
from components.models.canvasmar.model import CanvasMARConfig
from components.models.canvasmar.temporal_vit import PATCH
from components.models.layers.blocks import MLP_RATIO, ViTConfig
from components.models.layers.embeddings import FREQUENCIES
from components.sampling.frame import SamplerConfig

PARTS = ("temporal", "canvas", "spatial", "head")
COLUMNS = tuple(f"{part} GFLOP" for part in PARTS)


@dataclass(frozen=True, slots=True)
class Work:
    """FLOP of a forward pass and of its backward pass."""

    forward: int = 0
    backward: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: int) -> "Work":
        return Work(self.forward * times, self.backward * times)


Operations = dict[str, int]  # FLOP by part of the model


def add(*several: Operations) -> Operations:
    """Return the sum for each part."""
    return {part: sum(each[part] for each in several) for part in PARTS}


def columns(operations: Operations) -> dict[str, float]:
    """Return the operations in GFLOP by column of a table."""
    return {column: operations[part] / 1e9 for column, part in zip(COLUMNS, PARTS, strict=True)}


def training(config: CanvasMARConfig, batch: int, frames: int, visible: int) -> Operations:
    """Return the FLOP of a training step on clips of `frames` latent frames with `visible` visible tokens per frame."""
    m, n, d, c = _temporal_tokens(config), _tokens(config), config.temporal.width, config.latent[0]
    rows = batch * (frames - 1)
    masked = rows * (n - visible)
    noised = masked * config.head.repeats  # each at its own flow time
    parts = {
        "temporal": _recomputed(config, batch, frames - 1),
        "canvas": _canvas(config) * rows,
        "spatial": (_linear(visible, c, d, data=True) + _spatial_blocks(config, m, visible, n)) * rows,
        "head": _head_condition(config, masked)
        + _head_modulations(config, noised, times=noised)
        + _head_velocity(config, noised, noised),
    }
    return {part: work.forward + work.backward for part, work in parts.items()}


def sampled(config: CanvasMARConfig, sampler: SamplerConfig, batch: int) -> Operations:
    """Return the FLOP of sampling the next frame of `batch` videos, without the Temporal ViT.

    `remembered` and `recomputed` count the Temporal ViT.
    """
    m, n, d, c = _temporal_tokens(config), _tokens(config), config.temporal.width, config.latent[0]
    rows = batch * branches(config, sampler)
    evaluations = flow.evaluations(sampler.flow_steps, sampler.solver)
    times = len(flow.times(sampler.flow_steps, sampler.solver))
    spatial, head, known = Work(), Work(), 0
    for size in masking.set_sizes(n, sampler.sets):
        spatial += (_linear(known, c, d, data=True) + _spatial_blocks(config, m, known, n)) * rows
        head += _head_condition(config, size * rows) + _head_modulations(config, size * rows * times, times)
        head += _head_velocity(config, size * batch, size * rows) * evaluations
        known += size
    canvas = _canvas(config) * batch
    return {"temporal": 0, "canvas": canvas.forward, "spatial": spatial.forward, "head": head.forward}


def remembered(config: CanvasMARConfig, batch: int, first: int, last: int) -> Operations:
    """Return the FLOP of the Temporal ViT with its memory for frames first..last; frame 0 is the learned block."""
    m = _temporal_tokens(config)
    work = Work()
    for frame in range(first, last + 1):
        seen = min(frame + 1, config.temporal.window)
        embedded = _temporal_embed(config) if frame else Work()
        work += (embedded + _blocks(config.temporal, m, seen * m)) * batch + _time_positions(config, 1)
    return {**dict.fromkeys(PARTS, 0), "temporal": work.forward}


def recomputed(config: CanvasMARConfig, batch: int, frames: int) -> Operations:
    """Return the FLOP of the Temporal ViT over the learned block and `frames` frames at once, without a memory."""
    return {**dict.fromkeys(PARTS, 0), "temporal": _recomputed(config, batch, frames).forward}


def branches(config: CanvasMARConfig, sampler: SamplerConfig) -> int:
    """Return the number of conditions that guidance evaluates."""
    scales = (sampler.temporal_scale, sampler.canvas_scale)[: 1 if config.canvas is None else 2]
    return sum(weight != 0 for weight in guidance.coefficients(scales))


def _tokens(config: CanvasMARConfig) -> int:
    return config.latent[1] * config.latent[2]


def _temporal_tokens(config: CanvasMARConfig) -> int:
    return _tokens(config) // PATCH**2


def _linear(tokens: int, into: int, out: int, *, data: bool = False) -> Work:
    forward = 2 * tokens * into * out
    return Work(forward, forward if data else 2 * forward)


def _block(d: int, tokens: int, keys: int, read: int) -> Work:
    """Return the FLOP of a block of which `read` tokens are read; keys and values come from all `tokens`."""
    attention = Work(4 * read * keys * d, 8 * read * keys * d)
    return _linear(tokens, d, 3 * d) + attention + _linear(read, d, (1 + 2 * MLP_RATIO) * d)  # projection and MLP


def _blocks(config: ViTConfig, tokens: int, keys: int, read: int | None = None) -> Work:
    """Return the FLOP of all blocks; `read` tokens of the last one are read (None: all)."""
    block = _block(config.width, tokens, keys, tokens)
    if not config.layers or read is None:
        return block * config.layers
    return block * (config.layers - 1) + _block(config.width, tokens, keys, read)


def _temporal_embed(config: CanvasMARConfig) -> Work:
    return _linear(_temporal_tokens(config), config.latent[0] * PATCH**2, config.temporal.width, data=True)


def _time_positions(config: CanvasMARConfig, frames: int) -> Work:
    d = config.temporal.width
    return _linear(frames, FREQUENCIES, d, data=True) + _linear(frames, d, d)


def _recomputed(config: CanvasMARConfig, batch: int, frames: int) -> Work:
    tokens = (frames + 1) * _temporal_tokens(config)
    clip = _temporal_embed(config) * frames + _blocks(config.temporal, tokens, tokens)
    return clip * batch + _time_positions(config, frames + 1)


def _canvas(config: CanvasMARConfig) -> Work:
    if config.canvas is None:
        return Work()
    n, d, c = _tokens(config), config.canvas.width, config.latent[0]
    length = _temporal_tokens(config) + n
    ends = _linear(n, c, d, data=True) + _linear(n, d, c) + _linear(n, d, 1)
    return ends + _blocks(config.canvas, length, length, read=n)


def _spatial_blocks(config: CanvasMARConfig, prefix: int, visible: int, tokens: int) -> Work:
    """Return the FLOP of the encoder blocks (prefix and visible tokens) and of the other blocks (all tokens)."""
    depth = config.spatial.encoder_depth
    encoder, rest = (
        config.spatial.model_copy(update={"layers": layers}) for layers in (depth, config.spatial.layers - depth)
    )
    seen, full = prefix + visible, prefix + tokens
    return _blocks(encoder, seen, seen) + _blocks(rest, full, full, read=tokens - visible)


def _head_condition(config: CanvasMARConfig, tokens: int) -> Work:
    d, w = config.temporal.width, config.head.width
    return _linear(tokens, d, w) + _linear(tokens, w, w)


def _head_modulations(config: CanvasMARConfig, tokens: int, times: int) -> Work:
    """Return the FLOP of the modulations of so many tokens: three vectors in each block, and two at the end.

    The embedding of each flow time is computed once.
    """
    w = config.head.width
    embedded = _linear(times, FREQUENCIES, w, data=True) + _linear(times, w, w)
    return embedded + _linear(tokens, w, (3 * config.head.layers + 2) * w)


def _head_velocity(config: CanvasMARConfig, inputs: int, outputs: int) -> Work:
    """Return the FLOP of one velocity per token: embedding, two layers in each block, output.

    The embedding does not depend on the condition, so that there are fewer inputs than outputs if several are used.
    """
    w, c = config.head.width, config.latent[0]
    return _linear(inputs, c, w, data=True) + _linear(outputs, w, 2 * config.head.layers * w) + _linear(outputs, w, c)
