"""Files that are written whole or not at all, and JSON that every program can read."""

import json
import math
import os
from pathlib import Path

import pytest

from components.foundation.errors import InputError
from components.foundation.files import read_json, sha256, to_json, write_json, write_text


def strict(text: str) -> object:
    """Parse JSON as programs do that do not know Python's additions to it."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_become_null_at_any_depth(tmp_path, number):
    content = {"a": number, "b": [1.5, (number, {"c": number})], "d": "NaN", "e": True}
    expected = {"a": None, "b": [1.5, [None, {"c": None}]], "d": "NaN", "e": True}
    assert strict(to_json(content)) == expected
    write_json(tmp_path / "a.json", content)
    assert strict((tmp_path / "a.json").read_text()) == expected


def test_a_file_is_written_with_its_folder_and_its_hash_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "deep" / "a.json"
    digest = write_json(path, {"b": 1, "a": "ü"}, sort_keys=True)
    assert digest == sha256(path)
    assert path.read_text() == '{\n  "a": "\\u00fc",\n  "b": 1\n}\n'
    assert list(path.parent.iterdir()) == [path]
    assert list(read_json(path)) == ["a", "b"]


def test_a_file_that_cannot_be_written_keeps_its_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(*paths: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"a\.txt cannot be written \(No space left on device\); free space"):
        write_text(path, "new")
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["old"]
