"""Frame predictors that sample from a model conditioned on a caption, a label or actions."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from components.foundation.randomness import Stream
from components.models.canvasmar import temporal_vit, values
from components.models.canvasmar.model import CanvasMAR
from components.models.flow import ConditionedField
from components.models.relatives.frame_by_frame import Proposal, require_context
from components.models.relatives.masked_decoder import MaskedDecoder
from components.models.relatives.video_transformer import Memory


class _ConditionedPredictor:
    """Forwards to a model; subclasses add the condition in `remember` and `propose`."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.group, self.tokens, self.channels = model.group, model.tokens, model.channels
        self.most_sets, self.guidable = model.most_sets, model.guidable

    def embed(
        self, known: Float[Tensor, "b v p"], order: Int[Tensor, "b n"], conditions: tuple[Any, ...], count: int
    ) -> tuple[Any, ...]:
        """Return the embeddings of the next `count` tokens, one for each condition."""
        return self.model.embed(known, order, conditions, count)

    def velocity_field(self, embeddings: tuple[Any, ...], times: Sequence[float]) -> ConditionedField:
        """Return the velocity of tokens under each embedding as a function of tokens and flow time."""
        return self.model.velocity_field(embeddings, times)

    def frame(self, x: Float[Tensor, "b n p"]) -> Float[Tensor, "b c h w"]:
        """Return the latent frame of tokens in grid order."""
        return self.model.frame(x)


class CaptionConditioned(_ConditionedPredictor):
    """Frame predictor that samples from a model conditioned on a caption or label.

    It keeps two memories, without and with the condition, as classifier-free guidance needs. The sampler's first
    scale, `temporal_scale`, is the guidance scale of the condition.
    """

    def __init__(self, model: MaskedDecoder, condition: Float[Tensor, "b l i"]) -> None:
        super().__init__(model)
        self.condition = condition

    def remember(
        self, frames: Float[Tensor, "b t c h w"], memory: tuple[Memory, Memory] | None
    ) -> tuple[Memory, Memory]:
        """Return both memories, (unconditional, conditional), extended by these finished frames.

        Raises InputError if there is neither a memory nor a frame.
        """
        require_context(frames, memory)
        if memory is None:
            memory = self.model.empty_memory(len(self.condition)), self.model.initial_memory(self.condition)
        unconditional, conditional = memory
        return self.model.remember(frames, unconditional), self.model.remember(frames, conditional)

    def propose(
        self, memory: tuple[Memory, Memory], stream: Stream, *, frame_noise: float, canvas_noise: float
    ) -> Proposal:
        """Return the proposal, whose conditions are the two memories."""
        unconditional, _ = memory
        proposal = self.model.propose(unconditional, stream, frame_noise=frame_noise, canvas_noise=canvas_noise)
        return Proposal(memory, proposal.staticness)


class ActionConditioned(_ConditionedPredictor):
    """Frame predictor that samples from a model conditioned on the actions of each clip."""

    def __init__(self, model: CanvasMAR, actions: Float[Tensor, "b l i"]) -> None:
        """Wrap a model; actions[:, j] are the standardised actions from latent frame j to latent frame j + 1."""
        super().__init__(model)
        self.actions = actions

    def remember(self, frames: Float[Tensor, "b t c h w"], memory: temporal_vit.Memory | None) -> temporal_vit.Memory:
        """Return the memory extended by these latent frames; None is the memory before the first frame.

        Raises InputError if there is neither a memory nor a frame and the model needs context.
        """
        return self.model.remember(frames, memory)

    def propose(
        self, memory: temporal_vit.Memory, stream: Stream, *, frame_noise: float, canvas_noise: float
    ) -> values.Proposal:
        """Return the proposal of the next frame for its actions; after the last action, actions are unknown."""
        index = memory.frames - 1
        action = self.actions[:, index] if 0 <= index < self.actions.shape[1] else None
        return self.model.propose(memory, stream, frame_noise=frame_noise, canvas_noise=canvas_noise, action=action)
