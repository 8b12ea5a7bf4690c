"""Eq. 3: a frame, or the frames of a group together, set by set."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from components import flow, guidance, masking
from components.config import Config
from components.errors import InputError
from components.flow import Solver
from components.guidance import Schedule
from components.masking import Rule
from components.randomness import Stream
from components.sampling.interface import Condition, FramePredictor, Memory, Proposal
from components.sampling.replay import replayed


class SamplerConfig(Config):
    """How a frame is sampled (Table 3, lower part)."""

    sets: int  # autoregressive steps in a frame, N_AR
    flow_steps: int  # of the head's integration; heun asks for two velocities in each, the others for one
    solver: Solver  # euler is the paper's
    order: Rule
    temperature: float  # of the order, tau
    temporal_scale: float  # w_t of Eq. 9
    canvas_scale: float  # w_s of Eq. 9; without a canvas it has nothing to act on
    guidance: Schedule  # of both scales over the sets of a frame
    frame_noise: float  # r at inference, Eq. 11
    canvas_noise: float  # r' at inference, Eq. 12
    late_temperature: float  # of the tokens' noise, from 1 at the first frame towards this (VideoMAR: 0.9); 1 is none

    def check(self) -> None:
        """Raises InputError for values that no sampler can have."""
        if self.flow_steps < 1:
            raise InputError(f"sampler.flow_steps is {self.flow_steps}; it must be at least 1")
        for name in ("frame_noise", "canvas_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"sampler.{name} is {getattr(self, name)}; it must lie between 0 and 1")
        if not 0 < self.late_temperature <= 1:
            raise InputError(f"sampler.late_temperature is {self.late_temperature}; it must be above 0 and at most 1")

    def heat(self, frame: int) -> float:
        """VideoMAR's progressive temperature of the frame generated as number 0, 1, ...: 1, 0.91, 0.901, ... to 0.9.

        A flow head has no noise but what it starts from, and so this scales the Gaussian numbers at time 1.
        """
        return self.late_temperature + (1 - self.late_temperature) * 0.1**frame


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as it was sampled, and what led to it."""

    latent: Float[Tensor, "b c h w"]
    canvas: Float[Tensor, "b c h w"] | None
    staticness: Float[Tensor, "b n"]
    order: Int[Tensor, "b n"]  # the step at which each token of the grid was generated


@dataclass(frozen=True, slots=True)
class Draft:
    """The next frames while their tokens come, set after set."""

    model: FramePredictor
    proposal: Proposal[Any]
    order: Int[Tensor, "r n"]  # tokens as they come
    steps: Int[Tensor, "r n"]  # the step at which each token of the grid comes
    known: Float[Tensor, "r v p"]  # those that have come, in that order

    @property
    def share(self) -> float:
        """How much of the frames is known."""
        return self.known.shape[1] / self.order.shape[1]

    @property
    def present(self) -> Bool[Tensor, "r n"]:
        """Which tokens of the grid are known."""
        nothing = torch.zeros_like(self.order, dtype=torch.bool)
        return nothing.scatter(1, self.order[:, : self.known.shape[1]], True)

    def frames(self) -> tuple[Frame, ...]:
        """The frames as far as they are known: a token that has not come is zero."""
        places = self.order[:, : self.known.shape[1], None].expand_as(self.known)
        grid = self.known.new_zeros(*self.order.shape, self.known.shape[2]).scatter(1, places, self.known)
        canvas, group = self.proposal.canvas, self.model.group
        return tuple(
            Frame(
                self.model.frame(grid[own]),
                None if canvas is None else canvas[own],
                self.proposal.staticness[own],
                self.steps[own],
            )
            for own in (slice(index, None, group) for index in range(group))
        )


@dataclass(frozen=True, slots=True)
class NextSet:
    """How one set of tokens is made from the known ones: by so much of each condition, by this integration."""

    weights: tuple[float, ...]
    flow_steps: int
    solver: Solver

    def __call__(
        self,
        model: FramePredictor,
        known: Float[Tensor, "r v p"],
        order: Int[Tensor, "r n"],
        conditions: tuple[Any, ...],
        noise: Float[Tensor, "r k p"],
    ) -> Float[Tensor, "r k p"]:
        """The tokens that this noise becomes, which follow the known ones in this order."""
        embeddings = model.embed(known, order, conditions, noise.shape[1])

        def field(point: Tensor, time: float) -> Tensor:
            return guidance.combine(model.velocity(point, time, embeddings), self.weights)

        return flow.integrate(field, noise, self.flow_steps, self.solver)


def sample_frames(
    model: FramePredictor[Memory], memory: Memory, stream: Stream, config: SamplerConfig, heat: float = 1.0
) -> tuple[Frame, ...]:
    """The next frames after `memory`, as many as the model predicts together.

    Chance comes from the stream alone, and `heat` scales the tokens' noise.
    """
    for draft in sample_sets(model, memory, stream, config, heat):
        last = draft
    return last.frames()


def sample_sets(
    model: FramePredictor[Memory], memory: Memory, stream: Stream, config: SamplerConfig, heat: float = 1.0
) -> Iterator[Draft]:
    """The same frames before their first set, and after each.

    Only the conditions that guidance gives weight to are computed, together in one batch; the head works on the chosen
    tokens only, and on the projection of their embedding that does not change with the flow time. On a GPU a set that
    is made like one before is replayed. Raises InputError for guidance of a model that was trained without dropping
    conditions.
    """
    proposal = model.propose(
        memory, stream.fork("proposal"), frame_noise=config.frame_noise, canvas_noise=config.canvas_noise
    )
    sizes = masking.set_sizes(model.tokens, config.sets)
    chances = stream.fork("order").uniform(model.group, len(sizes), model.tokens).flatten(0, 1)
    order = masking.partition(proposal.staticness, chances, sizes, rule=config.order, temperature=config.temperature)
    noise = heat * stream.fork("tokens").normal(model.group, model.tokens, model.numbers).flatten(0, 1)
    draft = Draft(model, proposal, order, masking.set_index(order, sizes), noise[:, :0])
    yield draft
    for size in sizes:
        known = draft.known.shape[1]
        weights, conditions = _weighted(proposal.conditions, config, (known + size) / model.tokens, model.guidable)
        step = NextSet(weights, config.flow_steps, config.solver)
        chosen = replayed(step, model, draft.known, order, conditions, noise[:, known : known + size])
        draft = replace(draft, known=torch.cat([draft.known, chosen], dim=1))
        yield draft


def _weighted(
    conditions: tuple[Condition, ...], config: SamplerConfig, done: float, guidable: bool
) -> tuple[tuple[float, ...], tuple[Condition, ...]]:
    """How much of which condition; what has no weight is left out. Raises InputError for guidance that cannot be."""
    scales = (config.temporal_scale, config.canvas_scale)[: len(conditions) - 1]
    weights = guidance.coefficients(guidance.scheduled(scales, config.guidance, done))
    if any(weights[:-1]) and not guidable:
        raise InputError(
            "the model was trained with drop 0, never without a condition, so guidance has nothing to go by; "
            "set the sampler's temporal_scale and canvas_scale to 1, or train with model.drop above 0"
        )
    kept = [(weight, condition) for weight, condition in zip(weights, conditions, strict=True) if weight]
    return tuple(weight for weight, _ in kept), tuple(condition for _, condition in kept)
