"""A search over the settings of a sampler: what may vary, and which settings are tried."""

import itertools
import random
from typing import Literal

from components import config as configs
from components.config import Config
from components.errors import InputError
from components.sampling.frame import SamplerConfig

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


class SearchConfig(Config):
    """The values that each setting may take, how many settings are tried, and on how many validation clips."""

    space: dict[Varied, tuple[int | float | str, ...]]
    trials: int
    clips: int
    concurrent: int
    seed: int


def settings(sampler: SamplerConfig, search: SearchConfig) -> list[SamplerConfig]:
    """The sampler as it stands, then others drawn without repetition from the grid of all values.

    All are drawn beforehand, so that a repeated search tries the same. Raises InputError for an empty space, and for
    values that the sampler does not know.
    """
    if search.trials < 1 or search.clips < 2 or search.concurrent < 1:
        raise InputError("search: trials and concurrent must be at least 1, and clips at least 2")
    for name, values in search.space.items():
        if not values:
            raise InputError(f"search.space.{name} is empty; give it at least one value or remove it")
    names = list(map(str, search.space))
    grid = [dict(zip(names, values, strict=True)) for values in itertools.product(*search.space.values())]
    drawn = [sampler]
    for choice in random.Random(search.seed).sample(grid, len(grid)):
        candidate = configs.parse(SamplerConfig, configs.plain(sampler) | choice, where="search.space")
        if candidate not in drawn:
            drawn.append(candidate)
    chosen = drawn[: search.trials]
    for candidate in chosen:
        candidate.check()
    return chosen


def varied(sampler: SamplerConfig, search: SearchConfig) -> dict[str, int | float | str]:
    """The settings that the search varies, as they stand in this sampler."""
    return {name: configs.plain(sampler)[name] for name in search.space}
