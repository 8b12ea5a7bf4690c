"""CanvasMAR (arXiv 2510.13669, Fig. 2): Temporal ViT, Canvas ViT and Spatial MAR with a flow head, put together.

Without a canvas (`canvas: null`) the same class is the paper's baseline: a learned mask token in the canvas's place.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from components import flow, guidance, masking
from components.config import Config
from components.errors import InputError
from components.masking import MaskConfig
from components.models.canvas_vit import CanvasConfig, CanvasViT, blend
from components.models.flow_head import FlowHead, FlowHeadConfig
from components.models.spatial_mar import SpatialConfig, SpatialMAR, gather
from components.models.temporal_vit import PATCH, Memory, TemporalConfig, TemporalViT
from components.nn.blocks import ExpertNorm
from components.nn.embeddings import patchify, unpatchify
from components.nn.losses import Losses
from components.randomness import Stream


class CanvasMARConfig(Config):
    """The parts of CanvasMAR; every part has the same width."""

    kind: Literal["canvasmar"]
    latent: tuple[int, int, int]  # channels, height, width
    temporal: TemporalConfig
    canvas: CanvasConfig | None  # None is the no-canvas baseline
    spatial: SpatialConfig
    head: FlowHeadConfig
    mask: MaskConfig
    drop: float  # chance of each: no canvas, no history, neither
    group: int  # frames that are predicted together (section 5.4); 1 is the next frame alone
    first_frame: bool  # whether the first frame is learned too, from nothing, without a canvas

    def build(self) -> "CanvasMAR":
        """The model with fresh weights. Raises InputError if the parts do not fit one another."""
        _, height, width = self.latent
        if height % PATCH or width % PATCH:
            raise InputError(
                f"model.latent is {height} x {width}, which patches of {PATCH} x {PATCH} of the Temporal ViT "
                "do not divide; use even sizes"
            )
        parts = {"temporal": self.temporal, "spatial": self.spatial}
        if self.canvas is not None:
            parts["canvas"] = self.canvas
        for name, part in parts.items():
            part.check(f"model.{name}")
            if part.width != self.temporal.width:
                raise InputError(
                    f"model.{name}.width is {part.width}, model.temporal.width is {self.temporal.width}; "
                    "make them equal"
                )
        if not 0 <= self.drop <= 1 / 3:
            raise InputError(f"model.drop is {self.drop}; it is the chance of each of three cases, so 0 to 0.33")
        if self.group < 1:
            raise InputError(f"model.group is {self.group}; it must be at least 1")
        if self.first_frame and self.group > 1:
            raise InputError(f"model.first_frame needs model.group 1, not {self.group}: the first frame comes alone")
        return CanvasMAR(self)


@dataclass(frozen=True, slots=True)
class Draws:
    """The chance of one training step; every row is a frame that is predicted from those before its group."""

    visible: int  # tokens that the model sees, in every row
    order: Int[Tensor, "b t n"]  # places of the visible tokens first
    time: Float[Tensor, "b t k a"]  # flow times of the masked tokens and their repeats
    noise: Float[Tensor, "b t k a p"]
    frame_strength: Float[Tensor, "b _"]  # of each group, in [0, 1), scaled to the interval of Eq. 11
    frame_noise: Float[Tensor, "b _ c h w"]
    canvas_strength: Float[Tensor, "b _"]  # of each row that has a canvas, likewise, Eq. 12
    canvas_noise: Float[Tensor, "b _ n d"]
    no_history: Bool[Tensor, "b t"]
    no_canvas: Bool[Tensor, "b t"]


@dataclass(frozen=True, slots=True)
class Condition:
    """What the Spatial MAR is given beside the known tokens."""

    z_t: Float[Tensor, "r m d"]
    mask_tokens: Float[Tensor, "r n d"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """The next frames before their first token: conditions from poorest to richest, and what the canvas shows.

    Rows are frames: those that are predicted together follow one another.
    """

    conditions: tuple[Condition, ...]  # nothing; history; history and canvas
    staticness: Float[Tensor, "r n"]  # constant where there is no canvas
    canvas: Float[Tensor, "r c h w"] | None
    static_scale: float


class CanvasMAR(nn.Module):
    """p(next frame | frames so far), trained on all frames in parallel, sampled set by set."""

    def __init__(self, config: CanvasMARConfig) -> None:
        super().__init__()
        self.config = config
        width = config.temporal.width
        self.temporal = TemporalViT(config.temporal, config.latent)
        self.canvas = None if config.canvas is None else CanvasViT(config.canvas, config.latent, config.group)
        self.spatial = SpatialMAR(config.spatial, config.latent, config.group)
        self.head = FlowHead(config.head, config.latent[0], width)
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.no_history = nn.Parameter(torch.randn(width) * 0.02)

    @property
    def group(self) -> int:
        """Frames that are predicted together."""
        return self.config.group

    @property
    def tokens(self) -> int:
        """Tokens of a frame."""
        return self.config.latent[1] * self.config.latent[2]

    @property
    def numbers(self) -> int:
        """Numbers of a token: the channels of the latents."""
        return self.config.latent[0]

    @property
    def most_sets(self) -> int:
        """A set for each token."""
        return self.tokens

    @property
    def guidable(self) -> bool:
        """Whether conditions were dropped in training, so that the poorer ones mean something."""
        return self.config.drop > 0

    def no_weight_decay(self) -> set[str]:
        """Names of what is not decayed besides vectors: the flow head (MAR), and norms that are matrices."""
        exempt = {
            "head": self.head,
            **{name: part for name, part in self.named_modules() if isinstance(part, ExpertNorm)},
        }
        return {f"{name}.{own}" for name, part in exempt.items() for own, _ in part.named_parameters()}

    def draw(self, latents: Float[Tensor, "b t c h w"], stream: Stream) -> Draws:
        """Masks, noises, flow times and dropped conditions of one training step; one mask ratio for all rows.

        Raises InputError if the frames after the first are no whole number of groups.
        """
        channels, height, width = self.config.latent
        first, group, n = int(self.config.first_frame), self.config.group, self.tokens
        groups, rest = divmod(latents.shape[1] - 1, group)
        if rest or not groups:
            raise InputError(
                f"clips of {latents.shape[1]} latent frames are not one frame and whole groups of {group}; "
                "change model.group, or cut clips of another length"
            )
        rows = first + group * groups
        visible = masking.visible_count(n, self.config.mask, stream.fork("ratio").shared())
        masked, repeats = n - visible, self.config.head.repeats
        dropped = guidance.drops(stream.fork("drop").uniform(first + groups), self.config.drop)
        no_history, no_canvas = (drop.repeat_interleave(group, dim=1) for drop in dropped)
        return Draws(
            visible=visible,
            order=masking.permutation(stream.fork("order").uniform(rows, n)),
            time=flow.logit_normal(stream.fork("time").normal(rows, masked, repeats)),
            noise=stream.fork("noise").normal(rows, masked, repeats, channels),
            frame_strength=stream.fork("frame_strength").uniform(groups),
            frame_noise=stream.fork("frame_noise").normal(groups, channels, height, width),
            canvas_strength=stream.fork("canvas_strength").uniform(rows - first),
            canvas_noise=stream.fork("canvas_noise").normal(rows - first, n, self.config.temporal.width),
            no_history=no_history,
            no_canvas=no_canvas,
        )

    def supervised(self, draws: Draws) -> int:
        """Tokens whose prediction is learned in a step with these draws."""
        return math.prod(draws.time.shape[:3])

    def forward(self, latents: Float[Tensor, "b t c h w"], draws: Draws) -> Losses:
        """Eq. 10, all rows in parallel: every frame but the first, and the first where that is learned too."""
        group, first = self.config.group, int(self.config.first_frame)
        z_t = self.temporal(latents[:, :-1])
        last = latents[:, :-1:group]
        mask_tokens, terms = self._mask_tokens(
            z_t[:, 1::group].flatten(0, 1), last.flatten(0, 1), patchify(latents[:, 1:], 1).flatten(0, 1), draws
        )
        if first:
            mask_tokens = self._with_first(mask_tokens, latents.shape[0])
        z_t = z_t[:, 1 - first :: group].repeat_interleave(group, dim=1).flatten(0, 1)
        z_t = torch.where(draws.no_history.flatten()[:, None, None], self.no_history, z_t)

        order, x = draws.order.flatten(0, 1), patchify(latents[:, 1 - first :], 1).flatten(0, 1)
        visible, masked = gather(x, order).split([draws.visible, self.tokens - draws.visible], dim=1)
        z = self.spatial(visible, order, mask_tokens, z_t)
        rows = (masked, z, draws.noise.flatten(0, 1), draws.time.flatten(0, 1))
        terms |= self._flow_losses(rows, draws.order.shape[1])

        weights = {"flow": 1.0}
        if first:
            weights["first"] = 1.0
        if self.config.canvas is not None:
            weights |= {"canvas": self.config.canvas.canvas_weight, "static": self.config.canvas.static_weight}
        return Losses.weighted(terms, weights)

    def _with_first(self, mask_tokens: Float[Tensor, "r n d"], batch: int) -> Float[Tensor, "_ n d"]:
        """The mask tokens of all frames, with the learned token for the first of each clip."""
        uniform = self.mask_token.to(mask_tokens.dtype).expand(batch, 1, self.tokens, -1)
        return torch.cat([uniform, mask_tokens.unflatten(0, (batch, -1))], dim=1).flatten(0, 1)

    def _flow_losses(self, rows: tuple[Float[Tensor, "r ..."], ...], frames: int) -> dict[str, Float[Tensor, ""]]:
        """L_MAR of the rows; the first frames' is a term of its own, as in NOVA, so that it does not drown."""
        if not self.config.first_frame:
            return {"flow": self.head.loss(*rows)}
        split = [part.unflatten(0, (-1, frames)) for part in rows]
        return {
            "first": self.head.loss(*(part[:, 0] for part in split)),
            "flow": self.head.loss(*(part[:, 1:].flatten(0, 1) for part in split)),
        }

    def _mask_tokens(
        self, z_t: Float[Tensor, "_ m d"], last: Float[Tensor, "_ c h w"], x: Float[Tensor, "r n p"], draws: Draws
    ) -> tuple[Float[Tensor, "r n d"], dict[str, Float[Tensor, ""]]]:
        """The noised canvas embedding, or the learned token where it is dropped or there is none; its losses."""
        uniform = self.mask_token.expand(x.shape[0], self.tokens, -1)
        if self.canvas is None:
            return uniform, {}
        r, r_prime = (
            low + (high - low) * strength.flatten()
            for (low, high), strength in (
                (self.canvas.config.frame_noise, draws.frame_strength),
                (self.canvas.config.canvas_noise, draws.canvas_strength),
            )
        )
        z_c = self.canvas.each(self.canvas(z_t, blend(last, draws.frame_noise.flatten(0, 1), r)))
        canvas, static = self.canvas.losses(z_c, x)
        noised = blend(z_c, draws.canvas_noise.flatten(0, 1).to(z_c.dtype), r_prime)
        dropped = draws.no_canvas[:, draws.no_canvas.shape[1] - draws.canvas_strength.shape[1] :].flatten()
        return torch.where(dropped[:, None, None], uniform, noised), {"canvas": canvas, "static": static}

    def remember(self, frames: Float[Tensor, "b t c h w"], memory: Memory | None) -> Memory:
        """The memory with these frames in it; none at all is a beginning.

        Raises InputError for a beginning without a frame, if the first frame was not learned.
        """
        if memory is None and frames.shape[1] == 0 and not self.config.first_frame:
            raise InputError(
                "this model needs at least one latent frame of context; give one, or train with first_frame: true"
            )
        return self.temporal.remember(frames, memory)

    def propose(self, memory: Memory, stream: Stream, *, frame_noise: float, canvas_noise: float) -> Proposal:
        """Conditions of the next frames, with r and r' of Eq. 11 and 12 fixed; drawn once for each frame."""
        z_t = memory.z_t.repeat_interleave(self.config.group, dim=0)
        uniform = self.mask_token.expand(z_t.shape[0], self.tokens, -1)
        nothing = Condition(self.no_history.expand_as(z_t), uniform)
        history = Condition(z_t, uniform)
        if self.canvas is None or memory.frames == 0:
            return Proposal((nothing, history), torch.ones_like(uniform[..., 0]), None, 1.0)
        noise = stream.fork("frame_noise").normal(*self.config.latent)
        z_c = self.canvas.each(self.canvas(memory.z_t, blend(memory.last, noise, frame_noise)))
        noise = stream.fork("canvas_noise").normal(self.config.group, *z_c.shape[1:]).flatten(0, 1)
        canvas = self.frame(self.canvas.canvas(z_c))
        noised = Condition(z_t, blend(z_c, noise, canvas_noise))
        scale = self.canvas.config.static_scale
        return Proposal((nothing, history, noised), self.canvas.staticness(z_c), canvas, scale)

    def embed(
        self, known: Float[Tensor, "b v p"], order: Int[Tensor, "b n"], conditions: tuple[Condition, ...], count: int
    ) -> tuple[Float[Tensor, "b k o"], ...]:
        """What the head needs of the `count` tokens that follow the known ones in this order, for each condition."""
        several = len(conditions)
        z = self.spatial(
            known.repeat(several, 1, 1),
            order.repeat(several, 1),
            torch.cat([condition.mask_tokens for condition in conditions]),
            torch.cat([condition.z_t for condition in conditions]),
        )
        return tuple(self.head.condition(z[:, :count]).chunk(several))

    def velocity(
        self, x: Float[Tensor, "b k p"], time: float, embeddings: tuple[Float[Tensor, "b k o"], ...]
    ) -> tuple[Float[Tensor, "b k p"], ...]:
        """The velocity of the same tokens under each condition."""
        several = len(embeddings)
        out = self.head.velocity(
            x.repeat(several, 1, 1), torch.full((1, 1), time, device=x.device), torch.cat(embeddings)
        )
        return tuple(out.chunk(several))

    def frame(self, x: Float[Tensor, "b n p"]) -> Float[Tensor, "b c h w"]:
        """The latent frame of these tokens, given in the order of the grid."""
        return unpatchify(x, self.config.latent[1], 1)
