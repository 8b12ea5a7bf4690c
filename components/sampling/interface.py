"""Interface between the sampler and the models."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from components.foundation.randomness import Stream
from components.models.flow import ConditionedField

Memory = TypeVar("Memory")
Condition = TypeVar("Condition", covariant=True)


@runtime_checkable
class Proposal(Protocol[Condition]):
    """Conditions of the next frames, and the predicted canvas and staticness, before their first token is generated."""

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Conditions from poorest to richest, the order of the guidance chain."""
        ...

    @property
    def staticness(self) -> Float[Tensor, "r n"]:
        """Predicted staticness of each token, higher where less motion is expected; constant without a prediction."""
        ...

    @property
    def static_scale(self) -> float:
        """Scale in staticness = exp(-static_scale * squared error of the canvas); not used without a canvas."""
        ...

    @property
    def canvas(self) -> Float[Tensor, "r c h w"] | None:
        """Canvas, the expected latent frame; None for a model without a canvas."""
        ...

    @property
    def reference(self) -> "Reference | None":
        """Origin and scale of relative tokens; None if tokens are patches of the latents themselves."""
        ...


@runtime_checkable
class Reference(Protocol):
    """Origin and scale of relative tokens, and the mask of tokens that are copied instead of sampled."""

    @property
    def still(self) -> Bool[Tensor, "r n"]:
        """Mask of the tokens that equal their origin and are not sampled."""
        ...

    def absolute(self, u: Float[Tensor, "r n p"]) -> Float[Tensor, "r n p"]:
        """Convert the relative tokens of a whole grid to patches of the latents."""
        ...


@runtime_checkable
class FramePredictor(Protocol[Memory]):
    """p(next frames | past frames), generated set by set; the rows of a clip's group are adjacent."""

    @property
    def group(self) -> int:
        """Number of frames that are predicted together."""
        ...

    @property
    def tokens(self) -> int:
        """Number of tokens of a frame."""
        ...

    @property
    def channels(self) -> int:
        """Number of channels of a token."""
        ...

    @property
    def most_sets(self) -> int:
        """Largest number of sets in which a frame can be generated."""
        ...

    @property
    def guidable(self) -> bool:
        """Whether guidance works: the model was trained with condition dropout, or does not need it."""
        ...

    def remember(self, frames: Float[Tensor, "b t c h w"], memory: Memory | None) -> Memory:
        """Return the memory extended by these latent frames; None is the memory before the first frame.

        Raises InputError if there is neither a memory nor a frame and the model needs context.
        """
        ...

    def propose(self, memory: Memory, stream: Stream, *, frame_noise: float, canvas_noise: float) -> Proposal[Any]:
        """Return the proposal of the next frames, with noise strengths r (Eq. 11) and r' (Eq. 12)."""
        ...

    def embed(
        self, known: Float[Tensor, "r v p"], order: Int[Tensor, "r n"], conditions: tuple[Any, ...], count: int
    ) -> tuple[Any, ...]:
        """Return the embeddings of the `count` tokens after the known tokens for `velocity_field`, one per condition.

        `order` lists all grid indices in generation order; `known` holds the first v tokens of that order.
        """
        ...

    def velocity_field(self, embeddings: tuple[Any, ...], times: Sequence[float]) -> ConditionedField:
        """Return the velocity of tokens under each embedding as a function of tokens and flow time.

        It is called in the order of `times`, which `flow.times` returned.
        """
        ...

    def frame(self, x: Float[Tensor, "r n p"]) -> Float[Tensor, "r c h w"]:
        """Return the latent frame of tokens in grid order."""
        ...
