"""Trials of a search over how a model is trained: short trainings, each in a process, on the same batches."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from components import checkpoint
from components import space as spaces
from components.config import Config, parse, plain
from components.data.latents import Latents
from components.errors import InputError
from components.models.conditions import blank
from components.models.kinds import ModelConfig
from components.tracking import RunHandle
from components.training import loop
from components.training.optimizer import RecipeConfig
from components.training.plan import terms
from components.training.search import TrainingSearch
from pipeline import cluster, latent_training
from pipeline.latent_training import Source, Start
from pipeline.sampler_trials import named
from pipeline.workers import Worker


class Trained(Config):
    """A model and its recipe."""

    model: ModelConfig
    recipe: RecipeConfig


@dataclass(frozen=True, slots=True)
class Training:
    """What all trials have in common: equal batches, equal draws, so that differences are the settings'."""

    begin: Trained
    search: TrainingSearch
    source: Source
    log: RunHandle

    def changed(self, setting: Mapping[str, Any]) -> Trained:
        """Model and recipe of a trial. Raises InputError if they cannot be."""
        content = spaces.changed(plain(self.begin), setting, "model and recipe")
        short = {"steps": self.search.steps, "log_every": self.search.report_every, "workers": 1}
        short |= {"validate_every": self.search.report_every, "checkpoint_every": self.search.steps}
        content["recipe"] |= short
        return parse(Trained, content, where="search.space")


def trial(number: int, setting: Mapping[str, Any], shared: Training) -> Iterator[dict[str, float]]:
    """Losses at every validation, each with its step."""
    chosen = shared.changed(setting)
    worker, used = Worker(0, 1, cluster.device(), nn.Identity(), None), cluster.measure()
    with shared.log.child(named(number, setting), dict(setting), {"part": "trial"}) as log:
        (phase,) = chosen.recipe.parts()
        start = chosen.recipe.start
        begun = None if start is None else Start(Path(start.folder).resolve() / checkpoint.WEIGHTS, start.new)
        training, data = latent_training.make(chosen.model, phase, shared.source, begun, None, worker)
        for progress in loop.fit(training, data):
            losses = {name: value for name, value in progress.metrics.items() if name.startswith("validation_")}
            if losses:
                log.metrics(progress.metrics | used.use().metrics(), progress.step)
                yield {"step": progress.step, **losses}


def check(shared: Training) -> None:
    """Raises InputError if model and recipe as they stand, or any end of the space, cannot be trained or compared."""
    if shared.begin.recipe.phases:
        raise InputError("a search of kind training tries recipes of one phase; take an entry of recipes without any")
    latents = Latents.open(shared.source.latents, "train", None)
    for setting in ({}, *spaces.ends(shared.search.space)):
        chosen = shared.changed(setting)
        latent_training.check(chosen.model, chosen.recipe, latents, shared.source.latents)
        reported = [f"validation_{name}" for name in terms(chosen.model.build, blank(chosen.model, latents.shape))]
        for name in shared.search.objectives:
            if name not in reported:
                raise InputError(f"nobody reports {name}: this model's training has {', '.join(reported)}")
