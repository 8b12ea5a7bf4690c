from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from dvc.utils.serialize import load_yaml, modify_yaml
from pydantic import Field, ValidationError

from components.foundation import config as configs
from components.foundation.config import Config
from components.foundation.errors import InputError


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


YAML = """\
point: 1.0e-4
plain: 5e-05
no: no
on: on
clock: 1:30
zeros: 0777
octal: 0o17
under: 1_000
quoted: '64'
nothing: null
text: 'null'
list: [1e3, yes, off, ~]
"""
MEANING: dict[str, Any] = {
    "point": 1e-4, "plain": 5e-05, "no": "no", "on": "on", "clock": "1:30", "zeros": 777, "octal": 15, "under": 1000,
    "quoted": "64", "nothing": None, "text": "null", "list": [1000.0, "yes", "off", None],
}  # fmt: skip


def test_a_file_means_the_same_here_and_to_dvc(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(YAML, encoding="utf-8")
    assert configs.read_yaml(path) == MEANING == load_yaml(str(path))


def test_a_number_as_dvc_writes_it_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("rate: 0.1\n", encoding="utf-8")
    with modify_yaml(str(path)) as content:  # as `dvc exp run -S rate=5e-05` does
        content["rate"] = 5e-05
    assert configs.parse(Whole, broken(**configs.read_yaml(path)), where="here").rate == 5e-05


@pytest.mark.parametrize("name", ["no", "on", "64", "5e-05", "1:30", "null", "", "~", "é", "a b", "- a", "#a", "a: b"])
def test_what_is_written_is_read_back_equal_here_and_by_dvc(name: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    content = {name: {"text": name, "list": [name, 5e-05, 1e22, 777, True, None, []], "more": {}}}
    path.write_text(configs.dump_yaml(content), encoding="utf-8")
    assert configs.read_yaml(path) == content == load_yaml(str(path))


@pytest.mark.parametrize(
    ("text", "meaning"), [("5e-05", 5e-05), ("no", "no"), ("0777", 777), ("true", True), ("", None)]
)
def test_a_value_on_the_command_line_means_what_it_means_in_a_file(text: str, meaning: Any) -> None:
    assert configs.value(text) == meaning
    assert type(configs.value(text)) is type(meaning)


@pytest.mark.parametrize(
    "text", ["[1, 2", "{a", "a: 1: 2", "2024-13-45", "[" * 5000, "!!python/name:os.system x", "\a"]
)
def test_a_value_on_the_command_line_that_is_no_yaml_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a valid value"):
        configs.value(text)


@pytest.mark.parametrize(
    ("text", "line", "key"), [("rate: 1\nrate: 2\n", 2, "rate"), ("a:\n  b: 1\n  c: 2\n  'b': 3\n", 4, "b")]
)
def test_a_key_that_is_written_twice_is_named_with_its_line(tmp_path: Path, text: str, line: int, key: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="has a key twice in one table") as caught:
        configs.read_yaml(path)
    assert f'line {line}: found duplicate key "{key}"' in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_that_yaml_knows_and_json_does_not_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("rate: 2024-01-01", encoding="utf-8")
    assert "rate is a date, 2024-01-01; write" in sentence(broken(**configs.read_yaml(path)))


@pytest.mark.parametrize(
    ("key", "words"),
    [("64", "int 64"), ("1e3", "float 1000.0"), ("true", "bool True"), ("~", "null"), ("[1]", "tuple")],
)
def test_a_key_that_is_not_text_is_named_with_its_table(key: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"models: {{row: {{{key}: 2}}}}", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        configs.read_yaml(path)
    assert f"a key of models.row is {words}" in str(caught.value)


def test_a_number_that_is_not_finite_is_named(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("rate: 1e999\npart: {width: .nan, noise: [0.2, .inf]}", encoding="utf-8")
    text = sentence(broken(**configs.read_yaml(path)))
    assert "rate is inf; write a finite number" in text
    assert "part.width is nan; write" in text
    assert "part.noise is [0.2, inf]; write" in text


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        configs.parse(Whole, GOOD, where="here").rate = 2.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "does not exist"),
        ("a: [1, 2", r"is not valid YAML \(line 1: expected"),
        ("- a\n- b", "must hold a mapping of tables, not list"),
        ("", "is empty"),
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


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (b"", "is empty; restore it, or copy a file of presets/ over it"),
        (b"# nothing", "is empty; restore it"),
        ("a: 1".encode("utf-16"), "is not UTF-8 text (byte 0: invalid start byte); save it in UTF-8"),
        (b"a: caf\xe9", "is not UTF-8 text (byte 6: "),
        (
            b"a: &a {b: [1, {c: *a}]}",
            ": a.b[1].c is an alias of a table or list that contains it; write its values out",
        ),
        (b"a: &a [1, *a]", ": a[1] is an alias of a table or list that contains it"),
    ],
)
def test_a_file_that_means_nothing_says_what_to_do(tmp_path: Path, written: bytes, words: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_bytes(written)
    with pytest.raises(InputError) as caught:
        configs.read_yaml(file)
    assert words in str(caught.value)


def test_a_file_may_begin_with_a_byte_order_mark_and_repeat_an_alias(tmp_path: Path) -> None:
    laughs = "".join(f"{name}: &{name} [{','.join([f'*{last}'] * 9)}]\r\n" for last, name in pairwise("abcdefghi"))
    (tmp_path / "params.yaml").write_bytes(b"\xef\xbb\xbf" + f"a: &a [1]\r\n{laughs}".encode())
    assert list(configs.read_yaml(tmp_path / "params.yaml")) == list("abcdefghi")


def test_an_integer_that_no_float_holds_is_named() -> None:
    assert sentence(broken(**part(width=10**23))).endswith(
        f"part.width is {10**23}; an integer must be at most 9007199254740992 in size"
    )
