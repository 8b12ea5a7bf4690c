"""A search over how a model is trained: short trainings, of which the worse ones may be stopped early."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from components import space as spaces
from components.config import Config
from components.errors import InputError
from components.proposals import Algorithm, Proposals, Stopper, propose
from components.space import Space

Objective = Literal["validation_loss", "validation_flow", "validation_canvas", "validation_static"]
WEIGHTS: Final = ("canvas_weight", "static_weight")  # of the terms of the loss


class TrainingSearch(Config):
    """Settings of a model and its recipe, scored by validation losses of short trainings."""

    kind: Literal["training"]
    space: Space  # below `model` and `recipe`; both as they stand are always the first trial
    algorithm: Algorithm
    trials: Annotated[int, Field(ge=1)]  # in all, the first one too
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)]  # the first decides, all make the Pareto front
    stopper: Stopper
    steps: Annotated[int, Field(ge=1)]  # of a trial: the schedule of the learning rate is squeezed into them
    report_every: Annotated[int, Field(ge=1)]  # steps between validations, at which a stopper may end a trial
    concurrent: Annotated[int, Field(ge=1)]  # trials at the same time
    seed: int


def proposals(content: Mapping[str, Any], search: TrainingSearch) -> Proposals:
    """What is tried: model and recipe as they stand, then others; `content` holds both as plain values.

    Raises InputError for a path that neither has, and for an objective that changes its meaning from trial to trial.
    """
    for path in search.space:
        if "validation_loss" in search.objectives and path.endswith(WEIGHTS):
            raise InputError(
                f"search.space varies {path}, a weight of validation_loss itself, which then compares nothing; "
                "take validation_flow as the objective"
            )
    first = spaces.standing(content, search.space, "model and recipe")
    return propose(
        first,
        search.space,
        search.algorithm,
        len(search.objectives),
        trials=search.trials,
        together=search.concurrent,
        seed=search.seed,
    )
