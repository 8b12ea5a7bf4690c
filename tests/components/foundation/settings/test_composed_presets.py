"""A preset is its difference to the default: what it takes out, what it changes and what it adds, with its comments."""

from pathlib import Path
from typing import Any

import pytest

from components.foundation.config import read_yaml
from components.foundation.errors import InputError
from components.foundation.settings import presets

ROOT = Path(__file__).parents[4]
FILES = sorted(path for path in (ROOT / "presets").glob("*.yaml") if path.name != presets.DEFAULT)
ABOUT = "preset: {{what: Whole., needs: a, cost: b, run: c, removes: [{}]}}\n"
DEFAULT = """\
models: # of two kinds
  small: # fits a laptop
    width: 8 # channels
    parts: {depth: 1, heads: 2}
    canvas: null
  large:
    width: 64
    parts: {depth: 4, heads: 8}
    canvas: null
rows:
  first: {model: small}
prices: null # or a table
"""


def compose(folder: Path, text: str, removes: str = "") -> tuple[dict[str, Any], str]:
    (folder / "default.yaml").write_text(ABOUT.format("") + DEFAULT)
    (folder / "mine.yaml").write_text(ABOUT.format(removes) + text)
    return presets.read(folder / "mine.yaml"), presets.text(folder / "mine.yaml")


def test_a_preset_without_changes_is_the_default_with_another_header(tmp_path: Path) -> None:
    content, text = compose(tmp_path, "")
    assert content == {key: value for key, value in read_yaml(tmp_path / "default.yaml").items() if key != "preset"}
    lines = [line for line in text.splitlines() if line and not line.startswith("# ") and line != "#"]
    assert lines == DEFAULT.splitlines()
    assert text.startswith("# Whole. Written by `canvasmar preset mine`.\n# Needs: a\n# Cost: b\n# Run: c\n#\n")


def test_values_are_merged_key_by_key_and_a_changed_line_has_the_comment_of_the_preset(tmp_path: Path) -> None:
    content, text = compose(
        tmp_path, "models:\n  small:\n    width: 16\n    parts: {heads: 4} # more\nprices: 3 # euros\n"
    )
    assert content["models"]["small"] == {"width": 16, "parts": {"depth": 1, "heads": 4}, "canvas": None}
    assert content["models"]["large"] == {"width": 64, "parts": {"depth": 4, "heads": 8}, "canvas": None}
    assert content["prices"] == 3
    assert (
        "models: # of two kinds\n  small: # fits a laptop\n    width: 16\n    parts: {depth: 1, heads: 4} # more\n"
        in text
    )
    assert "prices: 3 # euros\n" in text


def test_an_entry_or_a_table_that_is_removed_leaves_room_for_others(tmp_path: Path) -> None:
    content, text = compose(tmp_path, "rows:\n  second: {model: small}\n", "models.large, rows")
    assert list(content["models"]) == ["small"]
    assert content["rows"] == {"second": {"model": "small"}}
    content, text = compose(tmp_path, "", "rows")
    assert content["rows"] == {}
    assert "rows: {}\n" in text


def test_an_entry_like_another_is_a_copy_with_changes(tmp_path: Path) -> None:
    text = (
        "models:\n  tiny: {like: small, parts: {depth: 0}}\n  narrow: # the narrowest\n    like: tiny\n    width: 1\n"
    )
    content, text = compose(tmp_path, text, "models")
    assert content["models"] == {
        "tiny": {"width": 8, "parts": {"depth": 0, "heads": 2}, "canvas": None},
        "narrow": {"width": 1, "parts": {"depth": 0, "heads": 2}, "canvas": None},
    }
    assert "  narrow: # the narrowest\n    width: 1\n" in text
    assert "fits a laptop" not in text


def test_a_mapping_in_place_of_null_and_null_in_place_of_a_mapping_are_values(tmp_path: Path) -> None:
    content, _ = compose(tmp_path, "models:\n  small:\n    parts: null\n    canvas: {width: 2}\n")
    assert content["models"]["small"] == {"width": 8, "parts": None, "canvas": {"width": 2}}


@pytest.mark.parametrize(
    ("text", "removes", "sentence"),
    [
        (
            "",
            "models.huge",
            r"mine.yaml: preset.removes has models.huge, which the default does not have; remove it there",
        ),
        ("", "models.small.width.x", r"preset.removes has models.small.width.x, which the default does not have"),
        ("models: {tiny: {like: huge}}", "", r"models.tiny.like is huge, which is no entry of models; correct it"),
        ("models: {tiny: 1, tiny: 2}", "", r"has a key twice in one table"),
    ],
)
def test_what_does_not_fit_the_default_is_one_sentence(tmp_path: Path, text: str, removes: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as raised:
        compose(tmp_path, text, removes)
    assert "\n" not in str(raised.value)


def test_a_params_file_without_the_block_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(DEFAULT)
    assert presets.read(tmp_path / "params.yaml") == read_yaml(tmp_path / "params.yaml")
    with pytest.raises(InputError, match="has no block `preset`; name a file of presets/"):
        presets.text(tmp_path / "params.yaml")


def test_the_params_file_of_the_project_is_the_default_preset() -> None:
    written = presets.text(ROOT / "presets" / presets.DEFAULT)
    assert (ROOT / "params.yaml").read_text(encoding="utf-8") == written, (
        "edit presets/default.yaml instead of params.yaml, and run `canvasmar preset default --force`"
    )


def leaves(content: Any, keys: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths of the values in nested mappings; an empty mapping is a value."""
    if not isinstance(content, dict) or not content:
        return [keys]
    return [path for key, value in content.items() for path in leaves(value, (*keys, key))]


def look(content: Any, keys: tuple[str, ...]) -> Any:
    """The value at a path, or a value that equals no other if there is none."""
    for key in keys:
        if not isinstance(content, dict) or key not in content:
            return object()
        content = content[key]
    return content


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_line_of_a_preset_changes_something(path: Path) -> None:
    default, changes, composed = presets.read(path.with_name(presets.DEFAULT)), read_yaml(path), presets.read(path)
    removed = changes.pop("preset")["removes"]
    idle = []
    for table, entries in changes.items():
        for name, entry in entries.items():
            like = entry.get("like")
            base = {**default[table], **composed[table]}[like] if like else look(default, (table, name))
            if not like and {table, f"{table}.{name}"} & set(removed):
                continue
            same = [keys for keys in leaves(entry) if look(base, keys) == look(entry, keys)]
            idle += [".".join((table, name, *keys)) for keys in same]
    assert idle == [], f"{path.name} repeats values that are there already; remove these lines"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_comment_of_a_preset_is_in_the_file_that_is_written(path: Path) -> None:
    written = presets.text(path)
    comments = [line.partition(" # ")[2] for line in path.read_text(encoding="utf-8").splitlines()]
    assert [comment for comment in comments if comment not in written] == []
