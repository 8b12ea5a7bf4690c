"""Every number of every config has a range; a number outside it is refused with a sentence that states the range."""

import importlib
import re
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, create_model

from components.foundation import config as configs
from components.foundation.config import Config, parse, read_yaml
from components.foundation.errors import InputError
from components.foundation.settings.ranges import Range, within

ROOT = Path(__file__).parents[4]
# numbers that may have any value, each with the reason
FREE = {
    "ChannelStatistics.mean": "a mean of latents",
    "ModelDescription.mean": "a mean of latents",
    "ActionScale.mean": "a mean of actions",
    "ArmConfig.space": "values of a sampler's settings, which have the ranges",
    "Grid.grid": "values of a setting, which has the range",
    "Uniform.uniform": "values of a setting, which has the range",
    "LogUniform.loguniform": "values of a setting, which has the range",
    "Integers.integers": "values of a setting, which has the range",
}


def every_config() -> list[type[Config]]:
    """All classes of configs in components/ and pipeline/, the fields of a subclass together with its base's."""
    for package in ("components", "pipeline"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if re.search(r"^class \w+\(.*(Config|Manifest|Params)", path.read_text(encoding="utf-8"), re.MULTILINE):
                importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    found, left = [], [Config]
    while left:
        subclasses = left.pop().__subclasses__()
        found += [one for one in subclasses if one.__module__.split(".")[0] in ("components", "pipeline")]
        left += subclasses
    return found


def is_bounded(metadata: Iterable[Any]) -> bool:
    return any(
        isinstance(one, Ge | Gt | Le | Lt) or (isinstance(one, AfterValidator) and isinstance(one.func, Range))
        for one in metadata
    )


def unbounded(annotation: Any, bounded: bool = False) -> Iterator[Any]:
    """The types of numbers in an annotation that have no bound."""
    if annotation in (int, float) and not bounded:
        yield annotation
    elif get_origin(annotation) is Annotated:
        kind, *metadata = get_args(annotation)
        yield from unbounded(kind, is_bounded(metadata))
    elif get_origin(annotation) is not Literal:
        for part in get_args(annotation):
            union = get_origin(annotation) in (Union, types.UnionType)
            yield from unbounded(part, bounded and union)


def test_every_number_of_a_config_has_a_range() -> None:
    """A number that is found here needs a type of components/foundation/settings/ranges.py."""
    models = every_config()
    free = {
        f"{model.__name__}.{name}"
        for model in models
        for name, field in model.model_fields.items()
        if list(unbounded(field.annotation, is_bounded(field.metadata)))
    }
    assert free == set(FREE)
    assert {"RecipeConfig", "SamplerConfig", "CanvasMARConfig", "Params"} <= {model.__name__ for model in models}


class Bare(Config):
    count: int
    part: tuple[Annotated[int, within(ge=1)], float] | None


def test_a_number_without_a_range_is_found() -> None:
    assert [list(unbounded(field.annotation)) for field in Bare.model_fields.values()] == [[int], [float]]


CASES: list[tuple[str, Any, str]] = [
    ("recipes.model.clip", 0, "clip is 0: it must be above 0"),
    ("recipes.model.clip", -1, "clip is -1: it must be above 0"),
    ("recipes.model.learning_rate", -1, "learning_rate is -1: it must be above 0"),
    ("recipes.model.ema", 1, "ema is 1: it must be at least 0 and below 1"),
    ("recipes.model.seed", -1, "seed is -1: it must be at least 0 and below 4294967296"),
    ("recipes.model.workers", [2, 1], "workers is [2, 1]: the first number must not exceed the second"),
    ("models.canvas.drop", 0.5, "drop is 0.5: it must be at least 0 and at most 0.333333333333"),
    ("models.canvas.canvas.canvas_noise", [0.3, 0.1], "the first number must not exceed the second"),
    ("models.canvas.canvas.canvas_noise", [0.3, 1.1], "canvas_noise.1 is 1.1: it must be at least 0 and at most 1"),
    ("models.canvas.mask.std", 0.0, "std is 0.0: it must be above 0"),
    ("models.canvas.head.repeats", 0, "repeats is 0: it must be at least 1"),
    ("samplers.default.flow_steps", 0, "flow_steps is 0: it must be at least 1"),
    ("samplers.default.temporal_scale", -0.5, "temporal_scale is -0.5: it must be at least 0"),
    ("samplers.default.noise_temperature", 0, "noise_temperature is 0: it must be above 0 and at most 2"),
    ("searches.guidance.seed", 2**32, "seed is 4294967296: it must be at least 0 and below 4294967296"),
    ("protocols.push.clips", 1, "clips is 1: it must be at least 2"),
    ("simulations.push.fps", 61, "fps is 61: it must be at least 1 and at most 60"),
    ("autoencoders.push-vae.objective.kl", -1e-5, "kl is -1e-05: it must be at least 0"),
    ("datasets.push.split", {"kind": "hash", "val": -0.1, "test": 0.1}, "val is -0.1: it must be at least 0"),
]


def schema_of(table: str) -> Any:
    from pipeline import preprocess, simulate, sweep, train, train_vae

    params = {
        "recipes": train.Params, "models": train.Params, "samplers": sweep.Params, "searches": sweep.Params,
        "protocols": sweep.Params, "simulations": simulate.Params, "autoencoders": train_vae.Params,
        "datasets": preprocess.Params,
    }[table]  # fmt: skip
    field = "search" if table == "searches" else table.removesuffix("s")
    return create_model("One", __base__=Config, **{field: (params.__annotations__[field], ...)}), field


@pytest.mark.parametrize(("path", "value", "words"), CASES, ids=[f"{path}={value}" for path, value, _ in CASES])
def test_a_number_outside_its_range_is_named_with_the_range(path: str, value: Any, words: str) -> None:
    table, entry, *keys, last = path.split(".")
    content = place = read_yaml(ROOT / "params.yaml")[table][entry]
    schema, field = schema_of(table)
    parse(schema, {field: content}, where="here")
    for key in keys:
        place = place[key]
    place[last] = value
    with pytest.raises(InputError) as caught:
        parse(schema, {field: content}, where="here")
    assert words in str(caught.value)


@pytest.mark.parametrize(("mean", "std", "low"), [(0.0, 0.01, 0.9), (0.0, 0.02, 0.2)])
def test_a_mask_ratio_that_no_draw_reaches_is_refused(mean: float, std: float, low: float) -> None:
    from components.models.masking import MaskConfig

    with pytest.raises(InputError, match="give no mask ratio between low"):
        parse(MaskConfig, {"mean": mean, "std": std, "low": low}, where="here")


def test_a_range_says_its_bounds() -> None:
    assert str(Range(gt=0, lt=1)) == "above 0 and below 1"
    assert str(Range(ge=1, le=5)) == "at least 1 and at most 5"
    assert configs.plain(parse(Bare, {"count": 1, "part": [1, 2]}, where="here")) == {"count": 1, "part": [1, 2.0]}
