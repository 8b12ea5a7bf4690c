from pathlib import Path

import pytest

from components.foundation.errors import InputError
from components.foundation.settings import names, presets

ROOT = Path(__file__).parents[4]
GOOD = ("push", "push-canvasmar", "a", "A1", "no", "on", "yes", "row_2", "e5", "null-model", "x" * 64)
BAD = (
    "", " ", "a b", "a.b", "a@b", "a;b", "a'b", 'a"b', "-a", "--row", "64", "5e-05", "1:30", "a/b", "../a",
    "a\\b", "a\n", "x" * 65, "é", "a$b", "${item}", "a`b`", "null", "true", "True", "FALSE", "~", ".inf", "inf", "NaN",
    "_a", "a:b", "a*",
)  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_name_of_letters_digits_dashes_and_underscores_is_usable(name: str) -> None:
    names.check({"models": {name: {}}, "recipes": {name: {}}, "prices": None}, "params.yaml")


@pytest.mark.parametrize("name", BAD)
def test_a_name_that_dvc_a_shell_a_disk_or_mlflow_may_read_otherwise_is_refused(name: str) -> None:
    with pytest.raises(InputError) as caught:
        names.check({"models": {name: {}}}, "params.yaml")
    text = str(caught.value)
    assert text.startswith("params.yaml: the name ")
    assert " in models is invalid; use a letter (a to z), then at most 63 letters, digits, - and _" in text
    assert "\n" not in text
    assert len(text) < 260


def test_names_that_differ_in_case_only_are_refused_within_a_table() -> None:
    names.check({"models": {"row": {}}, "recipes": {"Row": {}}}, "params.yaml")
    with pytest.raises(InputError, match="the names row and Row in models differ in case only"):
        names.check({"models": {"row": {}, "Row": {}}}, "params.yaml")


def test_all_unusable_names_are_listed_at_once() -> None:
    with pytest.raises(InputError, match=r"the name 'a b' in models .*; the name '64' in recipes "):
        names.check({"models": {"a b": {}, "ab": {}}, "recipes": {"64": {}}}, "params.yaml")


@pytest.mark.parametrize("file", sorted((ROOT / "presets").glob("*.yaml")))
def test_the_names_of_every_preset_are_usable(file: Path) -> None:
    names.check(presets.read(file), file.name)
