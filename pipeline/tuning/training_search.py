"""Hyperparameter search over model and recipe by short training runs, with optional early stopping of bad trials."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.settings.ranges import Count, Seed
from pipeline.tuning import search_space as spaces
from pipeline.tuning.search_space import Space
from pipeline.tuning.suggest import Algorithm, Stopper, Suggester, build_suggester

Objective = Literal["validation_loss", "validation_flow", "validation_canvas", "validation_static"]
WEIGHTS: Final = ("canvas_weight", "static_weight")  # settings that weight the terms of validation_loss


class TrainingSearch(Config):
    """Config of a search over settings of model and recipe, scored by validation losses of short training runs."""

    kind: Literal["training"]
    space: Space  # paths below `model` and `recipe`; the first trial uses the current settings
    algorithm: Algorithm  # how settings are chosen
    trials: Count  # total number, including the first trial
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)]  # the first ranks; all form the Pareto front
    stopper: Stopper  # ends bad trials early, or none
    steps: Count  # of a trial; the learning-rate schedule is scaled to this length
    report_every: Count  # steps between validations, after which the stopper may end a trial
    concurrent: Count  # maximum number of trials that run at the same time
    seed: Seed  # of the algorithm


def suggester(content: Mapping[str, Any], search: TrainingSearch) -> Suggester:
    """Return the suggester of a search: first the current settings, then those of the search algorithm.

    `content` holds model and recipe as plain values. Raise InputError if a path of the space is in neither of them.
    Raise it too if the space varies a loss weight that is part of the objective, because the values of trials would not
    be comparable.
    """
    for path in search.space:
        if "validation_loss" in search.objectives and path.endswith(WEIGHTS):
            raise InputError(
                f"search.space varies {path}, a weight inside the objective validation_loss, whose values are then not "
                "comparable between trials; use validation_flow as the objective"
            )
    first = spaces.current_values(content, search.space, "model and recipe")
    return build_suggester(
        first,
        search.space,
        search.algorithm,
        len(search.objectives),
        trials=search.trials,
        round_size=search.concurrent,
        seed=search.seed,
    )
