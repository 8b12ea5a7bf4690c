"""Build a scheduler or a searcher of Ray Tune from the options in a YAML file.

Valid options are the parameters of the constructor's signature that YAML can express, without those set here.
"""

import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from components.foundation.errors import InputError

Table = Mapping[str, Any]  # kind -> class, or function that imports and returns the class


def find(where: str, kind: str, table: Table, also: tuple[str, ...] = ()) -> Any:
    """Return the class of a kind. Raise InputError, with the setting `where` in its message, if there is no such kind.

    `also` are kinds of the setting that are not in the table.
    """
    if kind not in table:
        raise InputError(f"{where}.kind is {kind!r}; choose one of {', '.join([*also, *table])}")
    entry = table[kind]
    return entry() if inspect.isfunction(entry) else entry


def build(where: str, cls: Any, options: Mapping[str, Any], own: Mapping[str, Any]) -> Any:
    """Return an object of the class with a user's options and our `own` arguments, as far as its constructor has them.

    Raise InputError, with the setting `where` in its message, if an option is unknown, has a wrong type or is refused,
    or if a package is not installed.
    """
    parameters, adapters = inspect.signature(cls.__init__).parameters, _adapters(cls)
    any_name = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    valid = [name for name in adapters if name not in own]
    arguments = {name: value for name, value in own.items() if name in parameters}
    for name, value in options.items():
        if name not in valid and (not any_name or name in own):
            raise InputError(f"{where} has no option {name}; choose one of {', '.join(valid) or 'none'}")
        arguments[name] = _typed(f"{where}.{name}", value, adapters[name]) if name in adapters else value
    return guarded(where, lambda: cls(**arguments))


def guarded(where: str, action: Callable[[], Any]) -> Any:
    """Return the result of an action of the library; raise any of its errors as InputError in one sentence."""
    try:
        return action()
    except Exception as error:  # assertions, errors of Python and of the library
        text = " ".join(str(error).split()) or type(error).__name__
        if package := re.search(r"`pip install ([^`]+)`", text):
            raise InputError(
                f"{where} needs a package that is not installed; run `pip install {package[1]}`, or choose another kind"
            ) from None
        raise InputError(f"{where} is refused by Ray Tune ({text}); correct its options") from None


def _adapters(cls: Any) -> dict[str, TypeAdapter[Any]]:
    """Return the type of each parameter of a constructor that a value of a YAML file can have."""
    try:
        hints = typing.get_type_hints(cls.__init__)
    except (NameError, AttributeError, TypeError):  # a type of a package that is not installed
        hints = {}
    found: dict[str, TypeAdapter[Any]] = {}
    for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]:
        if parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            try:
                adapter = TypeAdapter(hints.get(name, Any), config=ConfigDict(arbitrary_types_allowed=True))
                adapter.json_schema()
            except (PydanticUserError, NameError):  # a function or an object
                continue
            found[name] = adapter
    return found


def _typed(where: str, value: Any, adapter: TypeAdapter[Any]) -> Any:
    """Return the value as the type of the parameter, such as a list as a tuple. Raise InputError if it is another."""
    try:
        return adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise InputError(f"{where} is {value!r}: {error.errors(include_url=False)[0]['msg']}") from None
