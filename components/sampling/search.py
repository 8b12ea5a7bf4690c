"""A search over the settings of a sampler: what may vary, how settings are proposed, and what is better."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from components import config as configs
from components import space as spaces
from components.config import Config
from components.proposals import Algorithm, Listed, NoStopper, Proposals, propose
from components.sampling.frame import SamplerConfig
from components.space import Space

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
    "late_temperature",
]
Objective = Literal["fvd", "milliseconds_per_frame"]
# what Optuna is told of an objective: a clock never shows the same twice, and its search would not be repeatable
TOLD: Final = {"fvd": "fvd", "milliseconds_per_frame": "gigaflops_per_frame"}


class SamplingSearch(Config):
    """Settings of a sampler, scored on validation clips; nothing is trained."""

    kind: Literal["sampling"]
    space: Space  # by the sampler's own names; the sampler as it stands is always the first trial
    algorithm: Algorithm
    trials: Annotated[int, Field(ge=1)]  # in all, the first one too
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)]  # the first decides, all make the Pareto front
    stopper: NoStopper  # a sampler's score comes all at once: there is nothing to stop early
    clips: Annotated[int, Field(ge=2)]  # validation clips that score a trial
    unseen: Annotated[int, Field(ge=0)]  # others, of videos that no trial saw, that score the winner once more; 0: none
    concurrent: Annotated[int, Field(ge=1)]  # trials at the same time
    seed: int


def proposals(sampler: SamplerConfig, search: SamplingSearch) -> Proposals:
    """What is tried: the sampler as it stands, then others. Raises InputError for what no sampler can be."""
    first = spaces.standing(configs.plain(sampler), search.space, "the sampler")
    found = propose(
        first,
        search.space,
        search.algorithm,
        len(search.objectives),
        trials=search.trials,
        together=search.concurrent,
        seed=search.seed,
    )
    for setting in (*spaces.ends(search.space), *(found.settings if isinstance(found, Listed) else ())):
        changed(sampler, setting)
    return found


def changed(sampler: SamplerConfig, setting: Mapping[str, Any]) -> SamplerConfig:
    """The sampler with this setting. Raises InputError if no sampler can have it."""
    content = spaces.changed(configs.plain(sampler), setting, "the sampler")
    candidate = configs.parse(SamplerConfig, content, where="search.space")
    candidate.check()
    return candidate
