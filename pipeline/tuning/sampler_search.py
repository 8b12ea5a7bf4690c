"""Hyperparameter search over sampler settings: the settings to vary, the search algorithm and the objectives."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from components.foundation import config as configs
from components.foundation.config import Config
from components.foundation.settings.ranges import Count, Seed, Several, Whole
from components.sampling.frame import SamplerConfig
from pipeline.tuning import search_space as spaces
from pipeline.tuning.search_space import Space
from pipeline.tuning.suggest import Algorithm, FixedList, NoStopper, Suggester, build_suggester

Varied = Literal[
    "sets",
    "flow_steps",
    "solver",
    "order",
    "temperature",
    "temporal_scale",
    "canvas_scale",
    "guidance",
    "frame_noise",
    "canvas_noise",
    "noise_temperature",
    "late_temperature",
]
Objective = Literal["fvd", "milliseconds_per_frame"]
# metric passed to Optuna for each objective: measured times vary between runs, but a search must be reproducible
OPTUNA_METRICS: Final = {"fvd": "fvd", "milliseconds_per_frame": "gigaflops_per_frame"}


class SamplingSearch(Config):
    """Search over sampler settings, scored on validation clips; nothing is trained."""

    kind: Literal["sampling"]
    space: Space  # keys are fields of SamplerConfig; the configured sampler is always the first trial
    algorithm: Algorithm  # how settings are chosen
    trials: Count  # total number, including the first trial
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)]  # the first ranks; all form the Pareto front
    stopper: NoStopper  # early stopping does not apply: a trial has no intermediate scores
    clips: Several  # validation clips that score a trial
    unseen: Whole  # clips of other videos to score the winner again; no trial uses them
    concurrent: Count  # trials that run at the same time
    seed: Seed  # of the algorithm; the predictions use the seed of the protocol


def suggester(sampler: SamplerConfig, search: SamplingSearch) -> Suggester:
    """Return the suggester of a search: first the settings of `sampler`, then those of the search algorithm.

    Raise InputError if the space has an unknown setting or a value that a sampler does not accept.
    """
    first = spaces.current_values(configs.plain(sampler), search.space, "the sampler")
    found = build_suggester(
        first,
        search.space,
        search.algorithm,
        len(search.objectives),
        trials=search.trials,
        round_size=search.concurrent,
        seed=search.seed,
    )
    for setting in (*spaces.settings_to_check(search.space), *(found.settings if isinstance(found, FixedList) else ())):
        changed(sampler, setting)
    return found


def changed(sampler: SamplerConfig, setting: Mapping[str, Any]) -> SamplerConfig:
    """Return the sampler with these settings changed; raise InputError if a name or value is not valid."""
    content = spaces.changed(configs.plain(sampler), setting, "the sampler")
    return configs.parse(SamplerConfig, content, where="search.space")
