"""Hyperparameter search over sampler settings: the settings to vary, the search algorithm and the objectives."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from components.foundation import config as configs
from components.foundation.settings.ranges import Several, Whole
from components.sampling.frame import SamplerConfig
from pipeline.tuning import search_space as spaces
from pipeline.tuning.ray_tune.algorithms import build_suggester
from pipeline.tuning.suggest import FixedList, NoStopper, SearchSettings

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
# metric that the algorithm minimises for each objective: a measured time would differ between runs of a search
METRICS: Final = {"fvd": "fvd", "milliseconds_per_frame": "gigaflops_per_frame"}


class SamplingSearch(SearchSettings):
    """Search over sampler settings, scored on validation clips; the keys of its space are fields of SamplerConfig."""

    kind: Literal["sampling"]
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)]  # the first ranks; all form the Pareto front
    stopper: NoStopper  # early stopping does not apply: a trial has no intermediate scores
    clips: Several  # validation clips that score a trial
    unseen: Whole  # clips of other videos to score the winner again; no trial uses them


def suggester(sampler: SamplerConfig, search: SamplingSearch) -> Any:
    """Return what `build_suggester` returns for a search: first the settings of `sampler`, then those of the algorithm.

    Raise InputError if the space has an unknown setting or a value that a sampler does not accept, or if the algorithm
    does not accept its options.
    """
    first = spaces.current_values(configs.plain(sampler), search.space, "the sampler")
    found = build_suggester(first, search, metrics(search))
    for setting in (*spaces.settings_to_check(search.space), *(found.settings if isinstance(found, FixedList) else ())):
        changed(sampler, setting)
    return found


def metrics(search: SamplingSearch) -> list[str]:
    """Return the metrics of a trial that the search algorithm minimises."""
    return [METRICS[name] for name in search.objectives]


def changed(sampler: SamplerConfig, setting: Mapping[str, Any]) -> SamplerConfig:
    """Return the sampler with these settings changed; raise InputError if a name or value is not valid."""
    content = spaces.changed(configs.plain(sampler), setting, "the sampler")
    return configs.parse(SamplerConfig, content, where="search.space")
