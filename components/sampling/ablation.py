"""An ablation: samplers of trained models side by side, arm by arm, on equal clips and by equal chance."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from components import config as configs
from components.config import Config
from components.errors import InputError
from components.sampling.frame import SamplerConfig
from components.sampling.search import Varied


class ArmConfig(Config):
    """One line of the figure: a trained model, a sampler, and the settings that its points go through."""

    experiment: str  # the row whose trained model is sampled from
    sampler: str  # the entry to begin with
    space: dict[Varied, tuple[int | float | str, ...]]  # every combination is a point
    against: str | None  # the arm whose FVD each point's is compared with


class AblationConfig(Config):
    """What is compared, and on which clips; all arms sample through one VAE."""

    dataset: str
    autoencoder: str
    protocol: str
    along: Varied  # the setting that the figure's axis shows
    arms: dict[str, ArmConfig]
    concurrent: int  # points at the same time


@dataclass(frozen=True, slots=True)
class Point:
    """One sampler of an arm."""

    arm: str
    experiment: str
    sampler: SamplerConfig
    against: int | None  # the place of the point that this one is compared with

    @property
    def name(self) -> str:
        """For a person."""
        return f"{self.arm}, {self.sampler.sets} sets, {self.sampler.flow_steps} steps"


def points(ablation: AblationConfig, samplers: Mapping[str, SamplerConfig]) -> list[Point]:
    """All points, arm after arm. Raises InputError for arms that are not there, and for samplers that cannot be."""
    if not ablation.arms or ablation.concurrent < 1:
        raise InputError("ablation: it needs at least one arm, and concurrent must be at least 1")
    found: list[Point] = []
    places: dict[str, range] = {}
    for name, arm in ablation.arms.items():
        own = _samplers(name, arm, samplers)
        others = _others(name, arm, places, len(own))
        places[name] = range(len(found), len(found) + len(own))
        found += [Point(name, arm.experiment, one, other) for one, other in zip(own, others, strict=True)]
    return found


def _samplers(name: str, arm: ArmConfig, samplers: Mapping[str, SamplerConfig]) -> list[SamplerConfig]:
    if arm.sampler not in samplers:
        raise InputError(f"ablation.arms.{name}: samplers has no entry {arm.sampler!r}; it has {', '.join(samplers)}")
    begun = configs.plain(samplers[arm.sampler])
    found = []
    for values in itertools.product(*arm.space.values()):
        changed = begun | dict(zip(map(str, arm.space), values, strict=True))
        found.append(configs.parse(SamplerConfig, changed, where=f"ablation.arms.{name}.space"))
        found[-1].check()
    if not found:
        raise InputError(f"ablation.arms.{name}.space has a setting without a value; give it one or remove it")
    return found


def _others(name: str, arm: ArmConfig, places: Mapping[str, range], count: int) -> list[int | None]:
    """The points to compare with: as many as the arm has itself, or one for all of them."""
    if arm.against is None:
        return [None] * count
    if arm.against not in places:
        raise InputError(f"ablation.arms.{name}.against is {arm.against!r}; name an arm that stands above this one")
    other = places[arm.against]
    if len(other) not in (1, count):
        raise InputError(
            f"ablation.arms.{name} has {count} points and is compared with the {len(other)} of {arm.against!r}; "
            "let both have as many, or the other one"
        )
    return [*other] if len(other) == count else [*other] * count
