"""What a search may vary: the values that each setting can take, by dotted path, and settings put in their places."""

import json
import math
import random
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, JsonValue, Tag, field_validator

from components.config import Config, flatten
from components.errors import InputError

Setting = dict[str, JsonValue]  # a value for every path of a space


class Choices(Config):
    """One of these values; a mapping changes several settings together, such as the width of all parts."""

    choices: Annotated[tuple[JsonValue, ...], Field(min_length=1)]

    def values(self) -> list[JsonValue] | None:
        """All of them."""
        return list(self.choices)

    def ends(self) -> list[JsonValue]:
        """Enough of them to find out whether all can be."""
        return list(self.choices)

    def draw(self, chance: random.Random) -> JsonValue:
        """One of them."""
        return chance.choice(self.choices)


class Grid(Config):
    """So many numbers at equal distances, both ends among them."""

    grid: tuple[float, float, Annotated[int, Field(ge=2)]]

    def values(self) -> list[JsonValue] | None:
        """All of them, from the first end to the other."""
        low, high, count = self.grid
        return [round(low + (high - low) * place / (count - 1), 12) for place in range(count)]

    def ends(self) -> list[JsonValue]:
        """Enough of them to find out whether all can be."""
        return self.values() or []

    def draw(self, chance: random.Random) -> JsonValue:
        """One of them."""
        return chance.choice(self.values() or [])


class Uniform(Config):
    """Any number between two."""

    uniform: tuple[float, float]

    @field_validator("uniform")
    @classmethod
    def _ordered(cls, ends: tuple[float, float]) -> tuple[float, float]:
        return _ordered(ends)

    def values(self) -> list[JsonValue] | None:
        """None: there are too many."""
        return None

    def ends(self) -> list[JsonValue]:
        """Enough of them to find out whether all can be."""
        return list(self.uniform)

    def draw(self, chance: random.Random) -> JsonValue:
        """One of them, each equally likely."""
        return chance.uniform(*self.uniform)


class LogUniform(Config):
    """Any number between two positive ones, each factor equally likely."""

    loguniform: tuple[Annotated[float, Field(gt=0)], float]

    @field_validator("loguniform")
    @classmethod
    def _ordered(cls, ends: tuple[float, float]) -> tuple[float, float]:
        return _ordered(ends)

    def values(self) -> list[JsonValue] | None:
        """None: there are too many."""
        return None

    def ends(self) -> list[JsonValue]:
        """Enough of them to find out whether all can be."""
        return list(self.loguniform)

    def draw(self, chance: random.Random) -> JsonValue:
        """One of them."""
        return math.exp(chance.uniform(*map(math.log, self.loguniform)))


class Integers(Config):
    """Any whole number between two, both included."""

    integers: tuple[int, int]

    @field_validator("integers")
    @classmethod
    def _ordered(cls, ends: tuple[int, int]) -> tuple[int, int]:
        return _ordered(ends)

    def values(self) -> list[JsonValue] | None:
        """All of them."""
        return list(range(self.integers[0], self.integers[1] + 1))

    def ends(self) -> list[JsonValue]:
        """Enough of them to find out whether all can be."""
        return list(self.integers)

    def draw(self, chance: random.Random) -> JsonValue:
        """One of them."""
        return chance.randint(*self.integers)


def _ordered(ends: tuple[Any, Any]) -> tuple[Any, Any]:
    if ends[0] >= ends[1]:
        raise ValueError("the first end of a range must be below the second")
    return ends


KINDS = {"choices": Choices, "grid": Grid, "uniform": Uniform, "loguniform": LogUniform, "integers": Integers}


def _kind(values: Any) -> str | None:
    return next(iter(values), None) if isinstance(values, Mapping) else next(iter(values.model_fields_set), None)


Values = Annotated[
    Annotated[Choices, Tag("choices")]
    | Annotated[Grid, Tag("grid")]
    | Annotated[Uniform, Tag("uniform")]
    | Annotated[LogUniform, Tag("loguniform")]
    | Annotated[Integers, Tag("integers")],
    Discriminator(_kind),
]


def by_path(space: Any) -> Any:
    """Nested tables of values as one, keys dotted. Raises ValueError for what is neither a table nor values."""
    if not isinstance(space, Mapping):
        return space
    found: dict[str, Any] = {}
    for key, entry in space.items():
        if not isinstance(entry, Mapping):
            raise ValueError(f"{key} is {entry!r}; give it values by one of {', '.join(KINDS)}")
        if len(entry) == 1 and next(iter(entry)) in KINDS:
            found[key] = {kind: tuple(values) if isinstance(values, list) else values for kind, values in entry.items()}
        elif entry and all(isinstance(below, Mapping) for below in entry.values()):
            found |= {f"{key}.{path}": values for path, values in by_path(entry).items()}
        else:
            raise ValueError(f"{key} is {dict(entry)!r}; give it values by one of {', '.join(KINDS)}")
    return found


Space = Annotated[dict[str, Values], BeforeValidator(by_path)]


def changed(content: Mapping[str, Any], setting: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The content with the values of a setting at their dotted paths; a mapping is laid over what stands there.

    Raises InputError for a path that the content does not have; `where` names what it is the content of.
    """
    result: dict[str, Any] = json.loads(json.dumps(content))
    for path, value in setting.items():
        *parents, last = path.split(".")
        place: Any = result
        for name in parents:
            place = place.get(name) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            known = ", ".join(place if isinstance(place, dict) else result)
            raise InputError(f"{where} has no setting {path}; there is {known or 'nothing'}")
        if isinstance(value, Mapping) and isinstance(place[last], dict):
            place[last] = changed(place[last], flatten(value), f"{where}: {path}")
        else:
            place[last] = value
    return result


def standing(content: Mapping[str, Any], space: Mapping[str, Any], where: str) -> Setting:
    """The setting as it stands in the content: of a choice of mappings, what these would change."""
    found: Setting = {}
    for path, values in space.items():
        changed(content, {path: None}, where)
        value: Any = content
        for name in path.split("."):
            value = value[name]
        options = values.values() or []
        if isinstance(value, Mapping) and options and isinstance(options[0], Mapping):
            flat = flatten(value)
            value = {name: flat.get(name) for name in flatten(options[0])}
        found[path] = value
    return found


def ends(space: Mapping[str, Values]) -> list[Setting]:
    """Settings of a single path each, with every value of it; of a range both ends."""
    return [{path: value} for path, values in space.items() for value in values.ends()]
