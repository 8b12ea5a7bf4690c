"""Sample the next frame, or the next group of frames, one set of tokens after another (Eq. 3)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.foundation.settings.ranges import Count, Fraction, NonNegative, within
from components.models import flow, guidance, masking
from components.models.flow import Solver
from components.models.guidance import Schedule
from components.models.masking import Rule
from components.sampling.cuda_graphs import run_graphed
from components.sampling.interface import Condition, FramePredictor, Memory, Proposal

Scale = Annotated[float, within(gt=0, le=2)]
Fall = Annotated[float, within(gt=0, le=1)]


class SamplerConfig(Config):
    """Sampler settings of one frame (Table 3, lower part)."""

    sets: Count  # autoregressive steps per frame, N_AR
    flow_steps: Count  # integration steps of the flow head; heun evaluates two velocities per step, the others one
    solver: Solver  # the paper uses euler
    order: Rule  # rule of the generation order; motion_aware draws static tokens first
    temperature: NonNegative  # tau, temperature of the generation order
    temporal_scale: NonNegative  # w_t of Eq. 9
    canvas_scale: NonNegative  # w_s of Eq. 9; no effect on a model without a canvas
    guidance: Schedule  # schedule of both guidance scales over the sets of a frame
    frame_noise: Fraction  # r at inference, Eq. 11
    canvas_noise: Fraction  # r' at inference, Eq. 12
    noise_temperature: Scale  # scale of the tokens' Gaussian noise at flow time 1 in every frame; 1 as in training
    late_temperature: Fall  # a further scale, falling from 1 at the first frame to this (VideoMAR: 0.9); 1 is off

    def noise_scale(self, frame: int) -> float:
        """Return the noise scale of generated frame 0, 1, ...: noise_temperature times the progressive temperature.

        VideoMAR's progressive temperature is 1, 0.91, 0.901, ..., towards 0.9. The flow head draws noise only at time
        1, so the temperature scales that noise.
        """
        return self.noise_temperature * (self.late_temperature + (1 - self.late_temperature) * 0.1**frame)


@dataclass(frozen=True, slots=True)
class Frame:
    """A sampled frame with its canvas, its staticness and its generation order."""

    latent: Float[Tensor, "b c h w"]
    canvas: Float[Tensor, "b c h w"] | None
    staticness: Float[Tensor, "b n"]
    order: Int[Tensor, "b n"]  # index of the step at which each token of the grid was generated


@dataclass(frozen=True, slots=True)
class Draft:
    """The next frames in progress: the tokens generated so far, and the order of all tokens."""

    model: FramePredictor
    proposal: Proposal[Any]
    order: Int[Tensor, "r n"]  # grid indices of the tokens in generation order
    steps: Int[Tensor, "r n"]  # index of the step at which each token of the grid is generated
    known: Float[Tensor, "r v p"]  # the tokens generated so far, in generation order

    @property
    def share(self) -> float:
        """Return the fraction of tokens generated so far."""
        return self.known.shape[1] / self.order.shape[1]

    @property
    def present(self) -> Bool[Tensor, "r n"]:
        """Return the mask of the grid's tokens generated so far."""
        present = torch.zeros_like(self.order, dtype=torch.bool)
        return present.scatter(1, self.order[:, : self.known.shape[1]], True)

    def frames(self) -> tuple[Frame, ...]:
        """Return the frames in progress; a missing token is zero, or its origin if the model's tokens are relative."""
        indices = self.order[:, : self.known.shape[1], None].expand_as(self.known)
        grid = self.known.new_zeros(*self.order.shape, self.known.shape[2]).scatter(1, indices, self.known)
        if self.proposal.reference is not None:
            grid = self.proposal.reference.absolute(grid)
        canvas, group = self.proposal.canvas, self.model.group
        return tuple(
            Frame(
                self.model.frame(grid[rows]),
                None if canvas is None else canvas[rows],
                self.proposal.staticness[rows],
                self.steps[rows],
            )
            for rows in (slice(index, None, group) for index in range(group))
        )


@dataclass(frozen=True, slots=True)
class NextSet:
    """Generation of one set of tokens: guidance weights and flow integration. Hashable, for `run_graphed`."""

    weights: tuple[float, ...]  # one for each condition
    flow_steps: int
    solver: Solver

    def __call__(
        self,
        model: FramePredictor,
        known: Float[Tensor, "r v p"],
        order: Int[Tensor, "r n"],
        conditions: tuple[Any, ...],
        noise: Float[Tensor, "r k p"],
        still: Bool[Tensor, "r k"] | None = None,
    ) -> Float[Tensor, "r k p"]:
        """Generate the k tokens that follow the v known tokens in `order`, starting from `noise`.

        Tokens marked in `still` are not sampled and are zero. On a CPU the head runs on the other tokens only; on a
        GPU it runs on all k tokens, because CUDA graphs need fixed shapes.
        """
        embeddings = model.embed(known, order, conditions, noise.shape[1])
        if still is None:
            return self._integrate(model, embeddings, noise)
        if noise.is_cuda:
            return self._integrate(model, embeddings, noise).masked_fill(still[..., None], 0.0)
        tokens = torch.zeros_like(noise)
        moving = ~still
        if moving.any():
            moving_embeddings = tuple(embedding[moving][None] for embedding in embeddings)
            tokens[moving] = self._integrate(model, moving_embeddings, noise[moving][None])[0]
        return tokens

    def _integrate(
        self, model: FramePredictor, embeddings: tuple[Any, ...], noise: Float[Tensor, "r k p"]
    ) -> Float[Tensor, "r k p"]:
        field = model.velocity_field(embeddings, flow.times(self.flow_steps, self.solver))

        def guided(tokens: Tensor, time: float) -> Tensor:
            return guidance.combine(field(tokens, time), self.weights)

        return flow.integrate(guided, noise, self.flow_steps, self.solver)


def sample_frames(
    model: FramePredictor[Memory], memory: Memory, stream: Stream, config: SamplerConfig, noise_scale: float = 1.0
) -> tuple[Frame, ...]:
    """Return the `model.group` frames that follow `memory`.

    All random draws come from `stream`; `noise_scale` scales the Gaussian noise of the tokens. Raises InputError as
    `sample_sets` does.
    """
    for draft in sample_sets(model, memory, stream, config, noise_scale):
        last = draft
    return last.frames()


def sample_sets(
    model: FramePredictor[Memory], memory: Memory, stream: Stream, config: SamplerConfig, noise_scale: float = 1.0
) -> Iterator[Draft]:
    """Sample as `sample_frames` does, but yield the frames in progress: before the first set and after each set.

    Only conditions with a non-zero guidance weight are computed, in one batch. The head runs on the tokens of the
    current set only; the part of their embedding that does not depend on the flow time is computed once. On a GPU, a
    set with the same shapes and settings as an earlier one is replayed from a CUDA graph.

    Raises InputError if `config.sets` is not from 1 to the number of tokens, or if guidance is on and the model was
    trained without condition dropout.
    """
    proposal = model.propose(
        memory, stream.fork("proposal"), frame_noise=config.frame_noise, canvas_noise=config.canvas_noise
    )
    sizes = masking.set_sizes(model.tokens, config.sets)
    uniform = stream.fork("order").uniform(model.group, len(sizes), model.tokens).flatten(0, 1)
    order = masking.partition(proposal.staticness, uniform, sizes, rule=config.order, temperature=config.temperature)
    noise = noise_scale * stream.fork("tokens").normal(model.group, model.tokens, model.channels).flatten(0, 1)
    draft = Draft(model, proposal, order, masking.set_index(order, sizes), noise[:, :0])
    yield draft
    for size in sizes:
        known = draft.known.shape[1]
        done = (known + size) / model.tokens
        weights, conditions = _weighted_conditions(proposal.conditions, config, done, model.guidable)
        step, current = NextSet(weights, config.flow_steps, config.solver), slice(known, known + size)
        still = () if proposal.reference is None else (proposal.reference.still.gather(1, order[:, current]),)
        tokens = run_graphed(step, model, draft.known, order, conditions, noise[:, current], *still)
        draft = replace(draft, known=torch.cat([draft.known, tokens], dim=1))
        yield draft


def _weighted_conditions(
    conditions: tuple[Condition, ...], config: SamplerConfig, done: float, guidable: bool
) -> tuple[tuple[float, ...], tuple[Condition, ...]]:
    """Return the non-zero guidance weights and their conditions; `done` is the fraction known after this set.

    Raises InputError if guidance needs a poorer condition and the model was trained without condition dropout.
    """
    scales = (config.temporal_scale, config.canvas_scale)[: len(conditions) - 1]
    weights = guidance.coefficients(guidance.scheduled(scales, config.guidance, done))
    if any(weights[:-1]) and not guidable:
        raise InputError(
            "guidance needs condition dropout in training, but the model was trained with drop 0; "
            "set the sampler's temporal_scale and canvas_scale to 1, "
            "or train with model.drop above 0 (model.condition.drop for captions and labels)"
        )
    needed = [(weight, condition) for weight, condition in zip(weights, conditions, strict=True) if weight]
    return tuple(weight for weight, _ in needed), tuple(condition for _, condition in needed)
