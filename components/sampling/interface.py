"""What a sampler knows of a model."""

from typing import Any, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from components.randomness import Stream

Memory = TypeVar("Memory")
Condition = TypeVar("Condition", covariant=True)


@runtime_checkable
class Proposal(Protocol[Condition]):
    """The next frames before their first token."""

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """From poorest to richest: guidance walks along them."""
        ...

    @property
    def staticness(self) -> Float[Tensor, "r n"]:
        """How still each token is expected to be; constant where the model does not say."""
        ...

    @property
    def static_scale(self) -> float:
        """Staticness is a guess of exp(-static_scale * squared error of the canvas); without a canvas any number."""
        ...

    @property
    def canvas(self) -> Float[Tensor, "r c h w"] | None:
        """The expected frame, where the model has one."""
        ...


@runtime_checkable
class FramePredictor(Protocol[Memory]):
    """p(next frames | frames so far), generated set by set; rows of a group of frames follow one another."""

    @property
    def group(self) -> int:
        """Frames that are predicted together."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens of a frame."""
        ...

    @property
    def numbers(self) -> int:
        """Numbers of a token."""
        ...

    @property
    def most_sets(self) -> int:
        """In how many sets a frame can be made."""
        ...

    @property
    def guidable(self) -> bool:
        """Whether it was trained with conditions missing, without which guidance has nothing to go by."""
        ...

    def remember(self, frames: Float[Tensor, "b t c h w"], memory: Memory | None) -> Memory:
        """The memory with these frames in it; None is the beginning.

        Raises InputError for a beginning without a frame, if the model cannot begin from nothing.
        """
        ...

    def propose(self, memory: Memory, stream: Stream, *, frame_noise: float, canvas_noise: float) -> Proposal[Any]:
        """Conditions of the next frames."""
        ...

    def embed(
        self, known: Float[Tensor, "r v p"], order: Int[Tensor, "r n"], conditions: tuple[Any, ...], count: int
    ) -> tuple[Any, ...]:
        """What `velocity` needs of the `count` tokens that come after the known ones, one for each condition."""
        ...

    def velocity(
        self, x: Float[Tensor, "r k p"], time: float, embeddings: tuple[Any, ...]
    ) -> tuple[Float[Tensor, "r k p"], ...]:
        """Velocity of the same tokens at one flow time, one for each embedding."""
        ...

    def frame(self, x: Float[Tensor, "r n p"]) -> Float[Tensor, "r c h w"]:
        """The latent frame of these tokens."""
        ...
