"""CanvasMAR (arXiv 2510.13669, Fig. 2): Temporal ViT, Canvas ViT, and Spatial MAR with a flow head.

Without a canvas (`canvas: null`) this is the paper's baseline, in which a learned mask token replaces the canvas.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.foundation.settings.ranges import Count, within
from components.models import flow, guidance, masking
from components.models.canvasmar.canvas_vit import CanvasConfig, CanvasViT, blend
from components.models.canvasmar.reference import Reference, Relative, RelativeConfig
from components.models.canvasmar.spatial_mar import SpatialConfig, SpatialMAR, gather
from components.models.canvasmar.temporal_vit import PATCH, Memory, TemporalConfig, TemporalViT
from components.models.canvasmar.values import Condition, Draws, Proposal, select
from components.models.conditions.interface import ActionConfig, ActionEmbedding, ConditionedClips, split_condition
from components.models.flow_head import FlowHead, FlowHeadConfig, VelocityField
from components.models.layers.blocks import ExpertNorm
from components.models.layers.embeddings import patchify, unpatchify
from components.models.masking import MaskConfig
from components.nn.losses import Losses

Third = Annotated[float, within(ge=0, le=1 / 3)]


class CanvasMARConfig(Config):
    """Config of CanvasMAR; `temporal`, `canvas` and `spatial` must have the same width."""

    kind: Literal["canvasmar"]
    latent: tuple[Count, Count, Count]  # channels, height, width
    temporal: TemporalConfig
    canvas: CanvasConfig | None  # None is the no-canvas baseline
    spatial: SpatialConfig
    head: FlowHeadConfig
    mask: MaskConfig
    drop: Third  # condition dropout: probability of each of three cases: no canvas, no history, neither
    group: Count  # frames that are predicted together (section 5.4); 1 is the next frame alone
    first_frame: bool  # also train on the first frame, which has neither history nor canvas
    relative: RelativeConfig | None  # tokens as differences from the expected frame; None: absolute tokens (paper)
    condition: ActionConfig | None  # the actions between frames; None: no actions (paper)
    rows: Count | None  # frames of a clip with a flow loss in a training step; None: all (paper)

    def build(self) -> "CanvasMAR":
        """Build the model with newly initialised weights. Raises InputError if parts of the config do not fit."""
        _, height, width = self.latent
        if height % PATCH or width % PATCH:
            raise InputError(
                f"model.latent is {height} x {width}, but the Temporal ViT needs multiples of its patch size {PATCH}; "
                "use even sizes"
            )
        parts = {"temporal": self.temporal, "spatial": self.spatial}
        if self.canvas is not None:
            parts["canvas"] = self.canvas
        for name, part in parts.items():
            part.check(f"model.{name}")
            if part.width != self.temporal.width:
                raise InputError(
                    f"model.{name}.width is {part.width}, but model.temporal.width is {self.temporal.width}; "
                    "make them equal"
                )
        if self.first_frame and self.group > 1:
            raise InputError(f"model.first_frame needs model.group 1, not {self.group}; set group to 1")
        if self.first_frame and self.relative is not None:
            raise InputError(
                "model.relative needs a last frame, which a first frame lacks; set one of the two to null or false"
            )
        if self.relative is not None and self.relative.copy_still is not None and self.canvas is None:
            raise InputError("model.relative.copy_still needs a canvas to find still tokens; set copy_still to null")
        if self.rows is not None and (self.group > 1 or self.first_frame):
            raise InputError("model.rows needs model.group 1 and model.first_frame false; set model.rows to null")
        if self.condition is not None and self.group > 1:
            raise InputError(f"model.condition of kind action needs model.group 1, not {self.group}; set group to 1")
        return CanvasMAR(self)


class CanvasMAR(nn.Module):
    """p(next frames | past frames), trained on all frames in parallel, sampled set by set."""

    def __init__(self, config: CanvasMARConfig) -> None:
        super().__init__()
        self.config = config
        width, channels = config.temporal.width, config.latent[0]
        self.temporal = TemporalViT(config.temporal, config.latent)
        self.canvas = None if config.canvas is None else CanvasViT(config.canvas, config.latent, config.group)
        self.relative = None
        if config.relative is not None:
            self.relative = Relative(config.relative, channels, None if config.canvas is None else width)
        inputs = channels if self.relative is None else 2 * channels  # a token, and its difference from its origin
        self.spatial = SpatialMAR(config.spatial, config.latent, config.group, inputs)
        self.head = FlowHead(config.head, channels, width)
        self.action = None if config.condition is None else ActionEmbedding(config.condition, width)
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.no_history = nn.Parameter(torch.randn(width) * 0.02)

    @property
    def group(self) -> int:
        """Number of frames that are predicted together."""
        return self.config.group

    @property
    def tokens(self) -> int:
        """Number of tokens of a frame."""
        return self.config.latent[1] * self.config.latent[2]

    @property
    def history(self) -> int:
        """Number of input frames of the Canvas ViT; 0 without a canvas."""
        return 0 if self.config.canvas is None else self.config.canvas.history

    @property
    def channels(self) -> int:
        """Number of channels of a token, which are the channels of the latents."""
        return self.config.latent[0]

    @property
    def most_sets(self) -> int:
        """Largest number of sets of a frame: one token per set."""
        return self.tokens

    @property
    def guidable(self) -> bool:
        """Whether guidance works: the model was trained with condition dropout."""
        return self.config.drop > 0

    def no_weight_decay(self) -> set[str]:
        """Return the parameters, besides vectors, that are exempt from weight decay: flow head (MAR), expert norms."""
        exempt = {
            "head": self.head,
            **{name: part for name, part in self.named_modules() if isinstance(part, ExpertNorm)},
        }
        return {f"{name}.{weight}" for name, part in exempt.items() for weight, _ in part.named_parameters()}

    @property
    def visible_grid(self) -> tuple[int, ...]:
        """Numbers of visible tokens used in validation."""
        return masking.visible_grid(self.tokens)

    def draw(
        self, clips: Float[Tensor, "b t c h w"] | ConditionedClips, stream: Stream, visible: int | None = None
    ) -> Draws:
        """Draw masks, noise, flow times and condition dropout of one training step; all rows share one mask ratio.

        Raises InputError unless the number of latent frames is 1 + a multiple of the group, or if actions do not fit.
        """
        latents, _ = split_condition(clips, self.config.condition)
        channels, height, width = self.config.latent
        first, group, n = int(self.config.first_frame), self.config.group, self.tokens
        groups, rest = divmod(latents.shape[1] - 1, group)
        if rest or not groups:
            raise InputError(
                f"clips have {latents.shape[1]} latent frames, but model.group needs 1 + a multiple of {group}; "
                "change model.group, or cut clips of another length"
            )
        rows = first + group * groups
        if visible is None:
            visible = masking.visible_count(n, self.config.mask, stream.fork("ratio").shared())
        masked, repeats = n - visible, self.config.head.repeats
        dropped = guidance.drops(stream.fork("drop").uniform(first + groups), self.config.drop)
        no_history, no_canvas = (drop.repeat_interleave(group, dim=1) for drop in dropped)
        replaced = 0 if self.canvas is None else self.canvas.own_groups(groups)
        flow_rows = None
        if self.config.rows is not None and self.config.rows < rows:
            flow_rows = stream.fork("rows").uniform(rows).argsort(dim=1)[:, : self.config.rows]
            no_history, no_canvas, rows = (
                *(drop.gather(1, flow_rows) for drop in (no_history, no_canvas)),
                flow_rows.shape[1],
            )
        return Draws(
            visible=visible,
            order=masking.permutation(stream.fork("order").uniform(rows, n)),
            time=flow.logit_normal(stream.fork("time").normal(rows, masked, repeats)),
            noise=stream.fork("noise").normal(rows, masked, repeats, channels),
            frame_strength=stream.fork("frame_strength").uniform(groups),
            frame_noise=stream.fork("frame_noise").normal(groups, self.history * channels, height, width),
            canvas_strength=stream.fork("canvas_strength").uniform(rows - first),
            canvas_noise=stream.fork("canvas_noise").normal(rows - first, n, self.config.temporal.width),
            no_history=no_history,
            no_canvas=no_canvas,
            own=stream.fork("own").uniform(groups).argsort(dim=1)[:, :replaced],
            no_action=stream.fork("action").uniform() < (0.0 if self.action is None else self.action.drop),
            rows=flow_rows,
        )

    def supervised_tokens(self, draws: Draws) -> int:
        """Return the number of tokens with a flow loss in a training step with these draws."""
        return math.prod(draws.time.shape[:3])

    def forward(self, clips: Float[Tensor, "b t c h w"] | ConditionedClips, draws: Draws) -> Losses:
        """Return the losses of Eq. 10 for all frames in parallel; the first frame is left out unless `first_frame`."""
        latents, condition = split_condition(clips, self.config.condition)
        group, first = self.config.group, int(self.config.first_frame)
        action = None if self.action is None or condition is None else self.action(condition, draws.no_action)
        inputs = latents
        if self.training and draws.own.shape[1]:
            inputs = self._scheduled_sampling(latents, action, draws)
        z_t = self._encode_history(inputs, action)
        x = patchify(latents[:, 1:], 1).flatten(0, 1)
        last = patchify(inputs[:, :-1:group].repeat_interleave(group, dim=1).flatten(0, 1), 1)
        z_c, canvas, reference = None, None, None
        terms: dict[str, Float[Tensor, ""]] = {}
        weights = self.head.weights
        weights |= {f"first_{name}": weight for name, weight in weights.items()} if first else {}
        if self.canvas is not None:
            z_c = self._canvas_embedding(z_t, inputs, action, draws, None)
            canvas = self.canvas.canvas(z_c, last)
            terms |= self.canvas.losses(z_c, canvas, x)
            weights |= {"canvas": self.canvas.config.canvas_weight, "static": self.canvas.config.static_weight}
        if self.relative is not None:
            reference = self.relative.reference(z_c, canvas, last, copying=False)
            terms |= self.relative.losses(z_c, x, reference.origin, last)
            weights |= self.relative.weights
        mask_tokens = self._mask_tokens(z_c, draws, len(latents))
        z_t = draws.select_rows(z_t[:, 1 - first :: group].repeat_interleave(group, dim=1).flatten(0, 1))
        z_t = torch.where(draws.no_history.flatten()[:, None, None], self.no_history, z_t)
        x = draws.select_rows(patchify(latents[:, 1 - first :], 1).flatten(0, 1))
        if reference is not None:
            parts = (reference.origin, reference.scale, reference.still)
            reference = Reference(*(draws.select_rows(part) for part in parts))
        terms |= self._flow(x, reference, mask_tokens, z_t, draws)
        return Losses.weighted(terms, weights)

    def _encode_history(
        self, inputs: Float[Tensor, "b t c h w"], action: Float[Tensor, "b l d"] | None
    ) -> Float[Tensor, "b t m d"]:
        """Return z_t before every frame; from the second frame on it includes the action that leads to the frame."""
        z_t = self.temporal(inputs[:, :-1])
        if action is None:
            return z_t
        return torch.cat([z_t[:, :1], z_t[:, 1:] + action[:, :, None]], dim=1)

    def _canvas_embedding(
        self, z_t: Float[Tensor, "b t m d"], inputs: Float[Tensor, "b t c h w"],
        action: Float[Tensor, "b l d"] | None, draws: Draws, groups: Int[Tensor, "b k"] | None,
    ) -> Float[Tensor, "_ n d"]:  # fmt: skip
        """Return z_c of every frame of these groups of each clip; None means all groups."""
        assert self.canvas is not None
        past, frames = z_t[:, 1 :: self.config.group].flatten(0, 1), self._noised(inputs, draws)
        rows = [past, frames, *([] if action is None else [action.flatten(0, 1)])]
        return self.canvas.per_frame(self.canvas(*(rows if groups is None else [select(row, groups) for row in rows])))

    @torch.no_grad()
    def _scheduled_sampling(
        self, latents: Float[Tensor, "b t c h w"], action: Float[Tensor, "b l d"] | None, draws: Draws
    ) -> Float[Tensor, "b t c h w"]:
        """Return the clips with some frames replaced by the model's canvas (scheduled sampling, arXiv 1506.03099).

        The model learns to correct its own errors. Only the canvases of the replaced frames are computed.
        """
        assert self.canvas is not None
        group, clip = self.config.group, torch.arange(len(latents), device=latents.device)[:, None]
        z_c = self._canvas_embedding(self._encode_history(latents, action), latents, action, draws, draws.own)
        last = select(latents[:, :-1:group].flatten(0, 1), draws.own).repeat_interleave(group, dim=0)
        canvas = self.frame(self.canvas.canvas(z_c, patchify(last, 1))).to(latents.dtype)
        clips = latents[:, 1:].unflatten(1, (-1, group)).clone()
        clips[clip, draws.own] = canvas.unflatten(0, (*draws.own.shape, group))
        return torch.cat([latents[:, :1], clips.flatten(1, 2)], dim=1)

    def _noised(self, latents: Float[Tensor, "b t c h w"], draws: Draws) -> Float[Tensor, "r g c h w"]:
        """Return the Canvas ViT's input frames of each group, oldest first, with the noise of Eq. 11."""
        assert self.canvas is not None
        low, high = self.canvas.config.frame_noise
        newest = latents[:, : -1 : self.config.group]
        older = torch.cat([latents[:, :1], latents[:, :-2]], dim=1)[:, :: self.config.group]  # frame 0 as padding
        frames = torch.stack([older, newest][-self.history :], dim=2).flatten(0, 1)
        noise = draws.frame_noise.flatten(0, 1).unflatten(1, (self.history, -1))
        return blend(frames, noise, low + (high - low) * draws.frame_strength.flatten())

    def _flow(
        self,
        x: Float[Tensor, "r n p"],
        reference: Reference | None,
        mask_tokens: Float[Tensor, "r n d"],
        z_t: Float[Tensor, "r m d"],
        draws: Draws,
    ) -> dict[str, Float[Tensor, ""]]:
        """Return L_MAR of the masked tokens."""
        order, count = draws.order.flatten(0, 1), draws.visible
        inputs = x if reference is None else torch.cat([x, x - reference.origin], dim=-1)
        z = self.spatial(gather(inputs, order[:, :count]), order, mask_tokens, z_t)
        target = x if reference is None else reference.relative(x)
        rows = [gather(target, order[:, count:]), z, draws.noise.flatten(0, 1), draws.time.flatten(0, 1)]
        if reference is not None:
            rows.append(gather(reference.scale, order[:, count:]))
        return self._flow_losses(tuple(rows), draws.order.shape[1])

    def _flow_losses(self, rows: tuple[Float[Tensor, "r ..."], ...], frames: int) -> dict[str, Float[Tensor, ""]]:
        """Return L_MAR of the rows. With `first_frame`, the first frames have a separate term, as in NOVA."""
        if not self.config.first_frame:
            return self.head.losses(*rows)
        split = [part.unflatten(0, (-1, frames)) for part in rows]
        first = self.head.losses(*(part[:, 0] for part in split))
        rest = self.head.losses(*(part[:, 1:].flatten(0, 1) for part in split))
        return {f"first_{name}": term for name, term in first.items()} | rest

    def _mask_tokens(self, z_c: Float[Tensor, "_ n d"] | None, draws: Draws, batch: int) -> Float[Tensor, "r n d"]:
        """Return the noised canvas embedding (Eq. 12), or the learned token where the canvas is dropped or absent."""
        learned = self.mask_token.expand(draws.no_canvas.numel(), self.tokens, -1)
        if self.canvas is None or z_c is None:
            return learned
        low, high = self.canvas.config.canvas_noise
        r_prime = low + (high - low) * draws.canvas_strength.flatten()
        noised = blend(draws.select_rows(z_c), draws.canvas_noise.flatten(0, 1).to(z_c.dtype), r_prime)
        if self.config.first_frame:  # the first frame has no canvas
            first = self.mask_token.to(noised.dtype).expand(batch, 1, self.tokens, -1)
            noised = torch.cat([first, noised.unflatten(0, (batch, -1))], dim=1).flatten(0, 1)
        return torch.where(draws.no_canvas.flatten()[:, None, None], learned, noised)

    def remember(self, frames: Float[Tensor, "b t c h w"], memory: Memory | None) -> Memory:
        """Return the memory extended by these latent frames; None is the memory before the first frame.

        Raises InputError if there is neither a memory nor a frame, unless the model has `first_frame`.
        """
        if memory is None and frames.shape[1] == 0 and not self.config.first_frame:
            raise InputError(
                "this model needs at least one latent frame of context; give one, or train with first_frame: true"
            )
        return self.temporal.remember(frames, memory)

    def propose(
        self,
        memory: Memory,
        stream: Stream,
        *,
        frame_noise: float,
        canvas_noise: float,
        action: Float[Tensor, "b i"] | None = None,
    ) -> Proposal:
        """Return the proposal of the next frames; noise of strength r (Eq. 11) and r' (Eq. 12) is drawn once per frame.

        `action` holds the standardised actions that lead to the next frame; None means unknown actions.
        """
        embedding = None if self.action is None else self.action.embed_transition(action, len(memory.z_t))
        past = memory.z_t if embedding is None else memory.z_t + embedding[:, None]
        z_t = past.repeat_interleave(self.config.group, dim=0)
        last = patchify(memory.last, 1).repeat_interleave(self.config.group, dim=0)
        learned = self.mask_token.expand(z_t.shape[0], self.tokens, -1)
        z_c, canvas, noised, staticness, scale = None, None, learned, torch.ones_like(learned[..., 0]), 1.0
        if self.canvas is not None and memory.frames > 0:
            frames = torch.stack([memory.previous, memory.last][-self.history :], dim=1)
            noise = stream.fork("frame_noise").normal(self.history * frames.shape[2], *frames.shape[3:])
            frames = blend(frames, noise.unflatten(1, (self.history, -1)), frame_noise)
            z_c = self.canvas.per_frame(self.canvas(past, frames, embedding))
            noise = stream.fork("canvas_noise").normal(self.config.group, self.tokens, z_c.shape[2]).flatten(0, 1)
            noised, staticness = blend(z_c, noise, canvas_noise), self.canvas.staticness(z_c)
            canvas, scale = self.canvas.canvas(z_c, last), self.canvas.config.static_scale
        reference = None
        if self.relative is not None:
            reference = self.relative.reference(z_c, canvas, last, copying=True)
            canvas = None if canvas is None else reference.origin
        conditions = [
            Condition(self.no_history.expand_as(z_t), learned, reference),
            Condition(z_t, learned, reference),
        ]
        if z_c is not None:
            conditions.append(Condition(z_t, noised, reference))
        canvas_frame = None if canvas is None else self.frame(canvas)
        return Proposal(tuple(conditions), staticness, canvas_frame, scale, reference)

    def embed(
        self, known: Float[Tensor, "b v p"], order: Int[Tensor, "b n"], conditions: tuple[Condition, ...], count: int
    ) -> tuple[Float[Tensor, "b k o"], ...]:
        """Return the head's embeddings of the `count` tokens after the known tokens in `order`, for each condition."""
        num_conditions = len(conditions)
        z = self.spatial(
            self._visible_inputs(known, order, conditions[0].reference).repeat(num_conditions, 1, 1),
            order.repeat(num_conditions, 1),
            torch.cat([condition.mask_tokens for condition in conditions]),
            torch.cat([condition.z_t for condition in conditions]),
        )
        return tuple(self.head.condition(z[:, :count]).chunk(num_conditions))

    def _visible_inputs(
        self, known: Float[Tensor, "r v p"], order: Int[Tensor, "r n"], reference: Reference | None
    ) -> Float[Tensor, "r v i"]:
        """Return the Spatial MAR's input for known tokens; relative tokens become (x, x - origin)."""
        if reference is None:
            return known
        origin, scale = (gather(part, order[:, : known.shape[1]]) for part in (reference.origin, reference.scale))
        return torch.cat([origin + scale * known, scale * known], dim=-1)

    def velocity_field(self, embeddings: tuple[Float[Tensor, "b k o"], ...], times: Sequence[float]) -> VelocityField:
        """Return the velocity of tokens under each condition as a function of tokens and flow time."""
        return self.head.velocity_field(embeddings, times)

    def frame(self, x: Float[Tensor, "b n p"]) -> Float[Tensor, "b c h w"]:
        """Return the latent frame of tokens in grid order."""
        return unpatchify(x, self.config.latent[1], 1)
