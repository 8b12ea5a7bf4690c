"""Ablations: compare sampler settings and trained models on the same clips with the same random draws."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from components.foundation import config as configs
from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.settings.ranges import Count
from components.sampling.frame import SamplerConfig
from pipeline.tuning.sampler_search import Varied


class ArmConfig(Config):
    """One arm, a line of the figure: a trained model and the sampler settings to vary."""

    experiment: str  # the ablation's experiment or its baseline, whose trained model this arm samples
    space: dict[Varied, tuple[int | float | str, ...]]  # values of each varied setting; every combination is a point
    against: str | None  # name of an earlier arm; the FVD of each point is compared with that arm's


class AblationConfig(Config):
    """Arms to compare, the models and the sampler that they share, and the evaluation data.

    dvc.yaml reads the names of these models and this sampler, so an ablation depends on no others.
    """

    dataset: str  # entry of `datasets` whose test clips are predicted
    autoencoder: str  # entry of `autoencoders`
    experiment: str  # row of `experiments` whose trained model is sampled
    baseline: str  # a second experiment; the same as `experiment` if all arms sample one model
    sampler: str  # entry of `samplers` that holds the settings that arms do not vary
    protocol: str  # entry of `protocols`
    along: Varied  # the setting on the horizontal axis of the figure
    arms: dict[str, ArmConfig]
    concurrent: Count  # points evaluated at the same time


@dataclass(frozen=True, slots=True)
class Point:
    """One point of an arm: a sampler and the point to compare its FVD with."""

    arm: str
    experiment: str
    sampler: SamplerConfig
    against: int | None  # index of the point to compare with, in the list of all points

    @property
    def name(self) -> str:
        """Return a readable name, such as for the MLflow run of the point."""
        return f"{self.arm}, {self.sampler.sets} sets, {self.sampler.flow_steps} steps"


def points(ablation: AblationConfig, sampler: SamplerConfig) -> list[Point]:
    """Return all points of an ablation, arm after arm.

    Raise InputError if there is no arm, an arm names an unknown experiment or arm, its settings are not valid for a
    sampler, or the numbers of points of two compared arms do not match.
    """
    if not ablation.arms or ablation.concurrent < 1:
        raise InputError(
            f"ablation has {len(ablation.arms)} arms and concurrent {ablation.concurrent}; "
            "give it at least one arm, and set concurrent to at least 1"
        )
    found: list[Point] = []
    indices: dict[str, range] = {}
    for name, arm in ablation.arms.items():
        if arm.experiment not in (ablation.experiment, ablation.baseline):
            raise InputError(
                f"ablation.arms.{name}.experiment is {arm.experiment!r}, which is not a dependency of this stage; "
                f"choose {ablation.experiment} or {ablation.baseline}, or change ablation.baseline"
            )
        own = _samplers(name, arm, sampler)
        others = _others(name, arm, indices, len(own))
        indices[name] = range(len(found), len(found) + len(own))
        found += [Point(name, arm.experiment, one, other) for one, other in zip(own, others, strict=True)]
    return found


def _samplers(name: str, arm: ArmConfig, sampler: SamplerConfig) -> list[SamplerConfig]:
    base = configs.plain(sampler)
    found = []
    for values in itertools.product(*arm.space.values()):
        changed = base | dict(zip(map(str, arm.space), values, strict=True))
        found.append(configs.parse(SamplerConfig, changed, where=f"ablation.arms.{name}.space"))
    if not found:
        raise InputError(f"ablation.arms.{name}.space has a setting without values; give it a value or remove it")
    return found


def _others(name: str, arm: ArmConfig, indices: Mapping[str, range], count: int) -> list[int | None]:
    """Return, for each point of the arm, the index of the point to compare it with; None without `against`.

    If the arm `against` has a single point, every point is compared with that. Otherwise point i is compared with the
    other arm's point i.
    """
    if arm.against is None:
        return [None] * count
    if arm.against not in indices:
        raise InputError(
            f"ablation.arms.{name}.against is {arm.against!r}, which is not an arm listed before {name}; "
            "name an earlier arm, or null"
        )
    other = indices[arm.against]
    if len(other) not in (1, count):
        raise InputError(
            f"ablation.arms.{name} has {count} points, but is compared with {arm.against!r}, which has {len(other)}; "
            f"give both arms the same number of points, or {arm.against!r} only one"
        )
    return [*other] if len(other) == count else [*other] * count
