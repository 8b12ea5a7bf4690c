"""Types of numbers with a range, for the fields of configs. An error message states the whole range.

A config's field takes one of the named types, or `Annotated[int, within(...)]` where no named type fits.
"""

from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import AfterValidator

N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number, named as in pydantic: gt (>), ge (>=), lt (<) and le (<=)."""

    gt: int | float | None = None
    ge: int | float | None = None
    lt: int | float | None = None
    le: int | float | None = None

    def __str__(self) -> str:
        bounds = (("above", self.gt), ("at least", self.ge), ("below", self.lt), ("at most", self.le))
        return " and ".join(f"{word} {bound:.12g}" for word, bound in bounds if bound is not None)

    def __call__(self, number: N) -> N:
        """Return the number. Raises ValueError if it is out of range."""
        if (
            (self.gt is not None and not number > self.gt)
            or (self.ge is not None and not number >= self.ge)
            or (self.lt is not None and not number < self.lt)
            or (self.le is not None and not number <= self.le)
        ):
            raise ValueError(f"it must be {self}")
        return number


def within(
    gt: int | float | None = None,
    ge: int | float | None = None,
    lt: int | float | None = None,
    le: int | float | None = None,
) -> AfterValidator:
    """Return the range as metadata of a type, for `Annotated`."""
    return AfterValidator(Range(gt, ge, lt, le))


Count = Annotated[int, within(ge=1)]
Several = Annotated[int, within(ge=2)]
Whole = Annotated[int, within(ge=0)]
Seed = Annotated[int, within(ge=0, lt=2**32)]  # the seeds that numpy accepts, which Optuna needs
Positive = Annotated[float, within(gt=0)]
NonNegative = Annotated[float, within(ge=0)]
Fraction = Annotated[float, within(ge=0, le=1)]
Share = Annotated[float, within(ge=0, lt=1)]
Chance = Annotated[float, within(gt=0, lt=1)]


def in_order(ends: tuple[N, N]) -> tuple[N, N]:
    """Return the two ends of an interval. Raises ValueError if the first exceeds the second."""
    if ends[0] > ends[1]:
        raise ValueError("the first number must not exceed the second; swap them")
    return ends


Interval = Annotated[tuple[Fraction, Fraction], AfterValidator(in_order)]
