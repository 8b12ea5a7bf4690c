"""Hyperparameter search over model and recipe by short training runs, with optional early stopping of bad trials."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field

from components.foundation import config as configs
from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.settings.ranges import Count
from components.models.conditions.interface import zero_clip
from components.models.kinds import ModelConfig
from components.training.optimizer import RecipeConfig
from components.training.plan import loss_names
from pipeline.tuning import search_space as spaces
from pipeline.tuning.ray_tune.algorithms import build_suggester
from pipeline.tuning.suggest import LibraryPart, SearchSettings, Stopper

Objective = Literal["validation_loss", "validation_flow", "validation_canvas", "validation_static"]
WEIGHTS: Final = ("canvas_weight", "static_weight")  # settings that weight the terms of validation_loss


class TrainingSearch(SearchSettings):
    """Search over paths below `model` and `recipe`, scored by validation losses of short training runs."""

    kind: Literal["training"]
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)]  # the first ranks; all form the Pareto front
    stopper: Stopper  # a scheduler of Ray Tune, such as one that ends bad trials early, or none
    steps: Count  # of a trial; the learning-rate schedule is scaled to this length
    report_every: Count  # steps between validations, after which the stopper may end a trial


class Candidate(Config):
    """The model and the recipe of a trial of a training search."""

    model: ModelConfig
    recipe: RecipeConfig

    def changed(self, setting: Mapping[str, Any], **recipe: Any) -> "Candidate":
        """Return the candidate with the values of a setting, and with these fields of the recipe.

        Raise InputError if a name or value is not valid.
        """
        content = spaces.changed(configs.plain(self), setting, "model and recipe")
        content["recipe"] |= recipe
        return configs.parse(Candidate, content, where="search.space")

    def check_objectives(self, search: TrainingSearch, latent: tuple[int, int, int, int]) -> None:
        """Raise InputError if training on latents of this shape (t, c, h, w) does not report every objective."""
        losses = loss_names(self.model.build, zero_clip(self.model, latent))
        reported = [f"validation_{name}" for name in losses]
        for name in search.objectives:
            if name not in reported:
                raise InputError(f"training does not report {name}; choose objectives from {', '.join(reported)}")


def suggester(current: Candidate, search: TrainingSearch) -> Any:
    """Return what `build_suggester` returns for a search: first the current settings, then those of the algorithm.

    Raise InputError if a path of the space is neither in model nor in recipe, or if the algorithm or the stopper does
    not accept its options. Raise it too if the space varies a loss weight that is part of the objective, because the
    values of trials would not be comparable.
    """
    for path in search.space:
        if "validation_loss" in search.objectives and path.endswith(WEIGHTS):
            raise InputError(
                f"search.space varies {path}, a weight inside the objective validation_loss, whose values are then not "
                "comparable between trials; use validation_flow as the objective"
            )
    first = spaces.current_values(configs.plain(current), search.space, "model and recipe")
    found = build_suggester(first, search, search.objectives)
    if isinstance(search.stopper, LibraryPart) or isinstance(search.algorithm, LibraryPart):
        from pipeline.tuning.ray_tune import schedulers  # imports Ray, which the checks of other stages do not need

        scheduler = build_scheduler(search)
        schedulers.check(scheduler, found, first, search)
        if schedulers.is_population(scheduler):
            _check_shapes(current, search)
    return found


def build_scheduler(search: TrainingSearch) -> Any:
    """Return Ray Tune's scheduler of a search. Raise InputError if the stopper does not accept its options."""
    from pipeline.tuning.ray_tune import schedulers  # imports Ray, which the checks of other stages do not need

    return schedulers.build_scheduler(search.stopper, search.objectives[0], search.steps, search.space)


def _check_shapes(current: Candidate, search: TrainingSearch) -> None:
    """Raise InputError if a value changes the shapes of weights, which a copied trial could then not load."""
    own = _shapes(current)
    for setting in spaces.settings_to_check(search.space):
        if _shapes(current.changed(setting)) != own:
            (path,) = setting
            raise InputError(
                f"search.space varies {path}, which changes the weights of the model, but the stopper copies weights "
                "between trials; remove it from the space, or use another stopper"
            )


def _shapes(candidate: Candidate) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: weight.shape for name, weight in candidate.model.build().state_dict().items()}
