from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from components import config as configs
from components.config import Config
from components.errors import InputError


class Part(Config):
    width: Annotated[int, Field(ge=1)]
    noise: tuple[float, float]


class Whole(Config):
    kind: Literal["whole"]
    part: Part
    other: Part | None
    rate: float


GOOD: dict[str, Any] = {"kind": "whole", "part": {"width": 4, "noise": [0.2, 0.6]}, "other": None, "rate": 1}


def broken(**changes: Any) -> dict[str, Any]:
    return GOOD | changes


def part(**changes: Any) -> dict[str, Any]:
    return {"part": GOOD["part"] | changes}


def sentence(data: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        configs.parse(Whole, data, where="params.yaml: models.small")
    text = str(caught.value)
    assert text.startswith("params.yaml: models.small: ")
    assert "\n" not in text
    return text


def test_lists_become_tuples_and_whole_numbers_floats() -> None:
    parsed = configs.parse(Whole, GOOD, where="here")
    assert parsed.part.noise == (0.2, 0.6)
    assert isinstance(parsed.rate, float)
    assert parsed.other is None


def test_what_was_parsed_is_written_back_as_it_was() -> None:
    parsed = configs.parse(Whole, GOOD, where="here")
    assert configs.plain(parsed) == GOOD
    assert configs.parse(Whole, configs.plain(parsed), where="here") == parsed


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (broken(**part(widht=4)), "unknown key part.widht"),
        (broken(part={"width": 4}), "missing key part.noise"),
        (broken(**part(width="4")), "part.width is '4'"),
        (broken(**part(width=4.0)), "part.width is 4.0"),
        (broken(**part(width=True)), "part.width is True"),
        (broken(**part(width=0)), "part.width is 0: Input should be greater than or equal to 1"),
        (broken(**part(noise=[0.2])), "part.noise"),
        (broken(**part(noise=[0.2, "0.6"])), "part.noise.1 is '0.6'"),
        (broken(rate="fast"), "rate is 'fast'"),
        (broken(kind="half"), "kind is 'half'"),
        (broken(other=3), "other is 3"),
    ],
)
def test_every_wrong_key_is_named_with_its_whole_path(data: dict[str, Any], words: str) -> None:
    assert words in sentence(data)


def test_all_wrong_keys_are_told_at_once() -> None:
    text = sentence(broken(part={"width": "4"}, rate=None))
    for words in ("part.width", "missing key part.noise", "rate is None"):
        assert words in text


def test_a_number_without_a_point_in_its_mantissa_is_told_as_the_text_that_yaml_reads(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("rate: 1e-4", encoding="utf-8")
    assert "rate is '1e-4'" in sentence(broken(**configs.read_yaml(path)))


def test_values_that_yaml_knows_and_json_does_not_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("rate: 2024-01-01", encoding="utf-8")
    assert "date" in sentence(broken(**configs.read_yaml(path)))


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        configs.parse(Whole, GOOD, where="here").rate = 2.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "does not exist"),
        ("a: [1, 2", "is not valid YAML"),
        ("- a\n- b", "must hold a mapping of tables, not list"),
        ("", "must hold a mapping of tables, not NoneType"),
    ],
)
def test_a_file_that_holds_no_mapping_is_named(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words) as caught:
        configs.read_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("unreadable", ["folder", "bytes"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, unreadable: str) -> None:
    path = tmp_path / "params.yaml"
    if unreadable == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match=r"params\.yaml"):
        configs.read_yaml(path)


def test_yaml_keeps_the_order_of_keys_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "out.yaml"
    path.write_text(configs.dump_yaml({"z": 1, "a": {"c": (1, 2), "b": None}}), encoding="utf-8")
    content = configs.read_yaml(path)
    assert list(content) == ["z", "a"]
    assert content["a"] == {"c": [1, 2], "b": None}


def test_flat_keys_are_the_paths() -> None:
    assert configs.flatten({"a": {"b": 1, "c": {"d": [2, 3]}}, "e": None}) == {"a.b": 1, "a.c.d": [2, 3], "e": None}


def test_a_fingerprint_is_of_the_choices_and_not_of_their_order() -> None:
    assert configs.fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == configs.fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    assert configs.fingerprint({"a": 1}) != configs.fingerprint({"a": 2})
    assert configs.fingerprint(configs.parse(Whole, GOOD, where="here")) == configs.fingerprint(
        configs.plain(configs.parse(Whole, dict(reversed(GOOD.items())), where="here"))
    )


class First(Config):
    kind: Literal["first"]
    width: Annotated[int, Field(ge=1)]


class Second(Config):
    kind: Literal["second"]
    sizes: tuple[int, int]


class Choice(Config):
    part: Annotated[First | Second, Field(discriminator="kind")]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"kind": "first", "widht": 3}, "unknown key part.widht"),
        ({"kind": "first"}, "missing key part.width"),
        ({"kind": "second", "sizes": [1, "2"]}, "part.sizes.1 is '2'"),
        ({"kind": "second", "sizes": [1]}, "missing key part.sizes.1"),
        ({"kind": "third"}, "part.kind is 'third'; it must be one of 'first', 'second'"),
        ({"width": 3}, "missing key part.kind"),
        (3, "part is 3"),
    ],
)
def test_a_wrong_key_of_a_variant_is_named_by_its_place_in_the_file(part: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        configs.parse(Choice, {"part": part}, where="here")
    assert words in str(error.value)
    assert "first." not in str(error.value)
    assert "second." not in str(error.value)
