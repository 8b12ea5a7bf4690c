"""Trials of a search over model and recipe: short training runs on the same batches, each in its own process."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from components.datasets.latents import Latents
from components.foundation import devices
from components.foundation.errors import InputError
from components.models import latent_training
from components.models.kinds import ModelConfig
from components.models.latent_training import InitialWeights, TrainingSource
from components.telemetry.tracking import RunHandle
from components.training import loop
from components.training.loop import Data, Training, Worker
from pipeline.runtime import cluster
from pipeline.tuning import search_space as spaces
from pipeline.tuning.sampler_trials import trial_name
from pipeline.tuning.training_search import Candidate, TrainingSearch
from pipeline.tuning.trials import Report, saved_state


@dataclass(frozen=True, slots=True)
class TrialInputs:
    """Inputs that all trials share: batches and random draws are the same, so only settings make losses differ."""

    current: Candidate  # the model and recipe that a trial changes
    search: TrainingSearch
    source: TrainingSource
    start: InitialWeights | None
    log: RunHandle

    def candidate(self, setting: Mapping[str, Any]) -> Candidate:
        """Return the model and recipe of a trial. Raise InputError if a name or value is not valid."""
        short = {"steps": self.search.steps, "log_every": self.search.report_every, "workers": 1}
        short |= {"validate_every": self.search.report_every, "checkpoint_every": self.search.report_every}
        return self.current.changed(setting, **short)


def trial(number: int, setting: Mapping[str, Any], shared: TrialInputs) -> Iterator[Report]:
    """Train with one setting; report the step, the validation losses and the state after each validation.

    Continue from the state that Ray Tune gives back after an interruption, or from a copy of another trial's.
    """
    candidate = shared.candidate(setting)
    worker, measure = Worker(0, 1, devices.device(), nn.Identity()), cluster.measure()
    with shared.log.child(trial_name(number, setting), dict(setting), {"part": "trial"}) as log:
        (phase,) = candidate.recipe.resolved_phases()
        start = shared.start and dataclasses.replace(shared.start, new=candidate.recipe.new_weights)
        training, data = latent_training.make(candidate.model, phase, shared.source, start, None, worker)
        validate_with_noise_of(training, shared.current.model)
        if (state := saved_state()) is not None:
            restore(training, state)
        for progress in loop.fit(training, data):
            losses = {name: value for name, value in progress.metrics.items() if name.startswith("validation_")}
            if losses:
                log.metrics(progress.metrics | measure.use().metrics(), progress.step)
                yield Report({"step": progress.step, **losses}, progress.state)


def validate_with_noise_of(training: Training, model: ModelConfig) -> None:
    """Validate with this model's intervals of r and r', so that losses are comparable between trials."""
    own = getattr(model, "canvas", None)
    modules: tuple[Any, ...] = (training.model, training.averaged.module)
    parts = [module.canvas for module in modules if getattr(module, "canvas", None) is not None]
    if own is None or not parts:
        return
    trained, validate = parts[0].config, training.validate
    scored = trained.model_copy(update={name: getattr(own, name) for name in ("frame_noise", "canvas_noise")})

    def validate_scored(data: Data) -> dict[str, float]:
        try:
            for part in parts:
                part.config = scored
            return validate(data)
        finally:
            for part in parts:
                part.config = trained

    training.validate = validate_scored  # type: ignore[method-assign]


def restore(training: Training, state: dict[str, Any]) -> None:
    """Load a state, but keep the trial's own learning rate and weight decay, which may differ in a copied state."""
    groups = [
        {name: value for name, value in group.items() if name != "params"} for group in training.optimizer.param_groups
    ]
    rates = list(training.schedule.base_lrs)
    training.restore(state)
    training.schedule.base_lrs = rates
    factors = [factor(training.schedule.last_epoch) for factor in training.schedule.lr_lambdas]
    for group, own, rate, factor in zip(training.optimizer.param_groups, groups, rates, factors, strict=True):
        group.update(own | {"lr": rate * factor})


def check(shared: TrialInputs) -> None:
    """Check the row's own settings and every value that the search may try.

    Raise InputError if they cannot be trained or do not report every objective.
    """
    if shared.current.recipe.phases:
        raise InputError("recipe.phases is not empty, but trials train one phase; search with a recipe without phases")
    latents = Latents.open(shared.source.latents, "train", None)
    for setting in ({}, *spaces.settings_to_check(shared.search.space)):
        candidate = shared.candidate(setting)
        latent_training.check(candidate.model, candidate.recipe, latents, shared.source.latents)
        candidate.check_objectives(shared.search, latents.shape)
