"""Search space of a hyper-parameter search: the values that each dotted path of a config may take.

Each class of values has three methods: `values` returns all values, or None for a continuous range; `values_to_check`
returns enough of them to check that all are valid; `draw` returns a random one.
"""

import json
import math
import random
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, JsonValue, Tag

from components.foundation.config import Config, flatten
from components.foundation.errors import InputError
from components.foundation.settings.ranges import Positive, Several

Setting = dict[str, JsonValue]  # dotted path -> value


class Listed(Config):
    """Values that can be listed."""

    @abstractmethod
    def values(self) -> list[JsonValue]:
        """Return all values in order."""

    def values_to_check(self) -> list[JsonValue]:
        """Return all values."""
        return self.values()

    def draw(self, generator: random.Random) -> JsonValue:
        """Return a random value."""
        return generator.choice(self.values())


class Choices(Listed):
    """One of several values. A mapping as value changes several settings together, such as the width of all parts."""

    choices: Annotated[tuple[JsonValue, ...], Field(min_length=1)]

    def values(self) -> list[JsonValue]:
        """Return all values in order."""
        return list(self.choices)


class Grid(Listed):
    """Equally spaced numbers, including both ends."""

    grid: tuple[float, float, Several]  # first, last, count

    def values(self) -> list[JsonValue]:
        """Return all values in order."""
        low, high, count = self.grid
        return [round(low + (high - low) * index / (count - 1), 12) for index in range(count)]


def _ordered(ends: tuple[Any, Any]) -> tuple[Any, Any]:
    if ends[0] >= ends[1]:
        raise ValueError("the lower end of a range must be below the upper end; correct the range")
    return ends


class Ranged(Config):
    """Numbers between two ends, both included."""

    @property
    @abstractmethod
    def ends(self) -> tuple[float, float]:
        """Lower and upper end."""

    def values(self) -> list[JsonValue] | None:
        """Return None, because the range is continuous."""
        return None

    def values_to_check(self) -> list[JsonValue]:
        """Return both ends."""
        return list(self.ends)


class Uniform(Ranged):
    """A uniformly distributed number between two ends."""

    uniform: Annotated[tuple[float, float], AfterValidator(_ordered)]

    @property
    def ends(self) -> tuple[float, float]:
        """Lower and upper end."""
        return self.uniform

    def draw(self, generator: random.Random) -> JsonValue:
        """Return a uniformly distributed value."""
        return generator.uniform(*self.uniform)


class LogUniform(Ranged):
    """A number between two positive ends, whose logarithm is uniformly distributed."""

    loguniform: Annotated[tuple[Positive, float], AfterValidator(_ordered)]

    @property
    def ends(self) -> tuple[float, float]:
        """Lower and upper end."""
        return self.loguniform

    def draw(self, generator: random.Random) -> JsonValue:
        """Return a random value."""
        return math.exp(generator.uniform(*map(math.log, self.loguniform)))


class Integers(Ranged):
    """An integer between two ends, both included."""

    integers: Annotated[tuple[int, int], AfterValidator(_ordered)]

    @property
    def ends(self) -> tuple[int, int]:
        """Lower and upper end."""
        return self.integers

    def values(self) -> list[JsonValue]:
        """Return all values in order."""
        return list(range(self.integers[0], self.integers[1] + 1))

    def draw(self, generator: random.Random) -> JsonValue:
        """Return a random value."""
        return generator.randint(*self.integers)


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


def flatten_space(space: Any) -> Any:
    """Flatten nested tables of values to one table with dotted keys.

    Raise ValueError if an entry is neither a table nor one of the kinds of values.
    """
    if not isinstance(space, Mapping):
        return space
    flat: dict[str, Any] = {}
    for key, entry in space.items():
        if not isinstance(entry, Mapping):
            raise ValueError(f"{key} is {entry!r}; describe its values with one of {', '.join(KINDS)}")
        if len(entry) == 1 and next(iter(entry)) in KINDS:
            flat[key] = {kind: tuple(values) if isinstance(values, list) else values for kind, values in entry.items()}
        elif entry and all(isinstance(below, Mapping) for below in entry.values()):
            flat |= {f"{key}.{path}": values for path, values in flatten_space(entry).items()}
        else:
            raise ValueError(f"{key} is {dict(entry)!r}; describe its values with one of {', '.join(KINDS)}")
    return flat


Space = Annotated[dict[str, Values], BeforeValidator(flatten_space)]


def changed(content: Mapping[str, Any], setting: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a copy of `content` with a setting's values at their dotted paths. A mapping updates a nested table.

    Raise InputError, with `where` in its message, if the content does not have one of the paths.
    """
    result: dict[str, Any] = json.loads(json.dumps(content))
    for path, value in setting.items():
        *parents, last = path.split(".")
        table: Any = result
        for name in parents:
            table = table.get(name) if isinstance(table, dict) else None
        if not isinstance(table, dict) or last not in table:
            known = ", ".join(table if isinstance(table, dict) else result)
            raise InputError(f"{where} has no setting {path}; choose one of {known or 'none'}")
        if isinstance(value, Mapping) and isinstance(table[last], dict):
            table[last] = changed(table[last], flatten(value), f"{where}: {path}")
        else:
            table[last] = value
    return result


def current_values(content: Mapping[str, Any], space: Mapping[str, Any], where: str) -> Setting:
    """Return the content's current value at every path of the space.

    If the choices of a path are mappings, return a mapping with the current values of their keys. Raise InputError,
    with `where` in its message, if the content does not have one of the paths.
    """
    setting: Setting = {}
    for path, values in space.items():
        changed(content, {path: None}, where)
        value: Any = content
        for name in path.split("."):
            value = value[name]
        options = values.values() or []
        if isinstance(value, Mapping) and options and isinstance(options[0], Mapping):
            flat = flatten(value)
            value = {name: flat.get(name) for name in flatten(options[0])}
        setting[path] = value
    return setting


def settings_to_check(space: Mapping[str, Values]) -> list[Setting]:
    """Return settings that together check the whole space; each sets one path only.

    Every value of a list and both ends of a range occur in them.
    """
    return [{path: value} for path, values in space.items() for value in values.values_to_check()]


def decode(values: Values, code: Any) -> JsonValue:
    """Return the value of a search library's `code`: JSON text of a choice, index of a grid point, or a number."""
    match values:
        case Choices():
            return json.loads(code)
        case Grid():
            return values.values()[code]
        case _:
            return code


def encode(values: Values, value: JsonValue) -> Any:
    """Return the code of a value for a search library: the inverse of `decode`."""
    match values:
        case Choices():
            return json.dumps(value)
        case Grid():
            return values.values().index(value)
        case _:
            return value


def contains(values: Values, value: JsonValue) -> bool:
    """Return whether a value is one of these values."""
    every = values.values()
    if every is not None:
        return value in every
    return isinstance(value, float | int) and isinstance(values, Ranged) and values.ends[0] <= value <= values.ends[1]
