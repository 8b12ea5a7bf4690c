"""Whatever stands in params.yaml, the check answers with sentences and never with a traceback."""

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from components.foundation.errors import InputError
from components.foundation.settings import presets
from pipeline.checks import problems
from tests.pipeline.conftest import ROOT

TABLES = presets.read(ROOT / "params.yaml")
Path = tuple[str | int, ...]


def paths(content: Any, above: Path = ()) -> Iterator[Path]:
    """The places of all values, tables and lists below this one."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*above, key)
        yield from paths(value, (*above, key))


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["push", "canvas", "default", 0, 1, -1, 1e9, 2**31, 1e-30])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)
PATHS = st.sampled_from(list(paths(TABLES)))


def check(path: Path, change: Any) -> None:
    tables: Any = copy.deepcopy(TABLES)
    place = tables
    for key in path[:-1]:
        place = place[key]
    change(place, path[-1])
    try:
        found = problems.whole(tables, "params.yaml", ROOT, videos_needed=False).problems
    except InputError as error:
        found = [str(error)]
    assert all("\n" not in sentence for sentence in found)


@settings(max_examples=150)
@given(path=PATHS, value=VALUES)
def test_any_value_in_any_place_is_accepted_or_named(path: Path, value: Any) -> None:
    check(path, lambda place, key: place.__setitem__(key, value))


@settings(max_examples=75)
@given(path=PATHS)
def test_anything_may_be_missing(path: Path) -> None:
    check(path, lambda place, key: place.pop(key))
