import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from components.foundation import checkpoint
from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.files import sha256

FACTS = {"params": "abc", "latents": "def"}


class Size(Config):
    width: int


def state() -> dict[str, object]:
    return {"step": 3, "model": {"w": torch.arange(6.0).view(2, 3)}, "rates": [0.1, 0.2], "history": [{"loss": 1.5}]}


def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "state"
    checkpoint.save(folder, state(), FACTS)
    return folder


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    loaded = checkpoint.load(saved(tmp_path), FACTS)
    weights = loaded.pop("model")["w"]
    assert torch.equal(weights, torch.arange(6.0).view(2, 3))
    assert loaded == {"step": 3, "rates": [0.1, 0.2], "history": [{"loss": 1.5}]}


def test_what_is_not_asked_for_may_differ(tmp_path: Path) -> None:
    assert checkpoint.load(saved(tmp_path), {"params": "abc"})["step"] == 3


def test_a_second_state_takes_the_place_of_the_first(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    checkpoint.save(folder, {"step": 4}, FACTS)
    assert checkpoint.load(folder, FACTS) == {"step": 4}
    assert [path.name for path in folder.parent.iterdir()] == ["state"]


def test_a_state_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        checkpoint.save(folder, {"step": lambda: 4}, FACTS)
    with pytest.raises(TypeError):
        checkpoint.save(folder, {"step": 4}, {"params": object()})
    assert checkpoint.load(folder, FACTS)["step"] == 3


@pytest.mark.parametrize("lost", [checkpoint.STATE, checkpoint.FACTS])
def test_a_state_with_a_file_missing_is_incomplete(tmp_path: Path, lost: str) -> None:
    folder = saved(tmp_path)
    (folder / lost).unlink()
    with pytest.raises(InputError, match=r"state is incomplete; delete it$"):
        checkpoint.load(folder, FACTS)


def test_no_folder_is_incomplete_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="incomplete"):
        checkpoint.load(tmp_path / "nowhere", FACTS)


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_torn_state_is_named_by_its_hash(tmp_path: Path, keep: int) -> None:
    folder = saved(tmp_path)
    content = (folder / checkpoint.STATE).read_bytes()
    (folder / checkpoint.STATE).write_bytes(content[:keep])
    with pytest.raises(InputError, match=r"state is damaged: its hash is .* delete it"):
        checkpoint.load(folder, FACTS)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path) / checkpoint.STATE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        checkpoint.load(path.parent, FACTS)


def test_facts_cut_short_are_incomplete(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    text = (folder / checkpoint.FACTS).read_text(encoding="utf-8")
    (folder / checkpoint.FACTS).write_text(text[:20], encoding="utf-8")
    with pytest.raises(InputError, match="incomplete"):
        checkpoint.load(folder, FACTS)


@pytest.mark.parametrize("facts", [{}, []])
def test_facts_without_a_hash_are_incomplete(tmp_path: Path, facts: object) -> None:
    folder = saved(tmp_path)
    (folder / checkpoint.FACTS).write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(InputError, match="incomplete"):
        checkpoint.load(folder, FACTS)


@pytest.mark.parametrize("wrong", [{"params": "xyz"}, {"latents": None}, {"commit": "123"}])
def test_a_state_of_another_run_is_refused_by_name(tmp_path: Path, wrong: dict[str, object]) -> None:
    folder = saved(tmp_path)
    (key,) = wrong
    with pytest.raises(InputError, match=rf"belongs to another run: its {key} is .*, but this run's is {wrong[key]!r}"):
        checkpoint.load(folder, FACTS | wrong)


def test_code_in_a_state_is_never_run(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    torch.save({"step": Path("x")}, folder / checkpoint.STATE)
    facts = {**FACTS, "sha256": sha256(folder / checkpoint.STATE)}
    (folder / checkpoint.FACTS).write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoint.load(folder, FACTS)


def test_a_moved_state_is_still_good(tmp_path: Path) -> None:
    shutil.move(saved(tmp_path), tmp_path / "elsewhere")
    assert checkpoint.load(tmp_path / "elsewhere", FACTS)["step"] == 3


def model(width: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, width), nn.LayerNorm(width))


def test_weights_come_back_into_a_model_of_the_same_kind(tmp_path: Path) -> None:
    path, first, second = tmp_path / "deep" / checkpoint.WEIGHTS, model(), model()
    nn.init.zeros_(next(second.parameters()))
    digest = checkpoint.save_weights(path, first.state_dict())
    checkpoint.load_weights(path, second)
    assert digest == sha256(path)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert [file.name for file in path.parent.iterdir()] == [checkpoint.WEIGHTS]


def test_equal_weights_are_equal_bytes_whatever_their_order(tmp_path: Path) -> None:
    weights = model().state_dict()
    first = checkpoint.save_weights(tmp_path / "a.safetensors", weights)
    second = checkpoint.save_weights(tmp_path / "b.safetensors", dict(reversed(weights.items())))
    assert first == second


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4)),
            r"weight 0.bias has shape \(3,\), but this configuration needs \(4,\)",
        ),
        (nn.Sequential(nn.Linear(2, 3)), r"has an unknown weight 1.bias"),
        (nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1)), r"lacks weight 2.bias"),
    ],
)
def test_weights_of_another_configuration_are_named(tmp_path: Path, other: nn.Module, words: str) -> None:
    path = tmp_path / checkpoint.WEIGHTS
    checkpoint.save_weights(path, model().state_dict())
    with pytest.raises(InputError, match=words):
        checkpoint.load_weights(path, other)


def test_missing_and_torn_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / checkpoint.WEIGHTS
    with pytest.raises(InputError, match="does not exist; run `dvc repro` to make it"):
        checkpoint.read_weights(path)
    checkpoint.save_weights(path, model().state_dict())
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="is not a readable weights file"):
        checkpoint.read_weights(path)


def test_weights_are_told_apart_by_their_identity(tmp_path: Path) -> None:
    for name, width in (("a", 3), ("b", 3), ("c", 4)):
        checkpoint.save_weights(tmp_path / name / checkpoint.WEIGHTS, model(width).state_dict())
    a, b, c = (checkpoint.identity(tmp_path / name) for name in "abc")
    assert a == b
    assert a != c
    with pytest.raises(InputError, match="dvc repro"):
        checkpoint.identity(tmp_path / "d")


def test_what_weights_are_is_read_back_and_checked(tmp_path: Path) -> None:
    checkpoint.describe(tmp_path, Size(width=3))
    assert checkpoint.description(tmp_path, Size) == Size(width=3)
    (tmp_path / checkpoint.DESCRIPTION).write_text('{"height": 3}', encoding="utf-8")
    with pytest.raises(InputError, match=r"config.json: .*missing key width"):
        checkpoint.description(tmp_path, Size)
    (tmp_path / checkpoint.DESCRIPTION).write_text('{"wid', encoding="utf-8")
    with pytest.raises(InputError, match="is not valid JSON"):
        checkpoint.description(tmp_path, Size)
    (tmp_path / checkpoint.DESCRIPTION).unlink()
    with pytest.raises(InputError, match="does not exist; run `dvc repro`"):
        checkpoint.description(tmp_path, Size)


def grown() -> nn.Module:
    """The model with a layer more and one of another size."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))


def test_a_grown_model_begins_with_the_weights_of_the_old_one_and_its_own_for_what_is_new(tmp_path: Path) -> None:
    path, old, new = tmp_path / checkpoint.WEIGHTS, model(), grown()
    checkpoint.save_weights(path, old.state_dict())
    assert checkpoint.begin_with(path, new, ("2.",)) == ["2.bias", "2.weight"]
    found = new.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in old.state_dict().items())
    fresh = grown().state_dict()
    assert torch.equal(found["2.weight"], fresh["2.weight"])
    assert torch.equal(found["2.bias"], fresh["2.bias"])


@pytest.mark.parametrize(
    ("other", "new", "words"),
    [
        (grown(), (), r"it lacks 2.bias, 2.weight; list the prefixes of new weights"),
        (grown(), ("2.w",), r"it lacks 2.bias; list the prefixes of new weights"),
        (nn.Sequential(nn.Linear(2, 3)), (), r"it has the unknown 1.bias, 1.weight;"),
        (nn.Sequential(nn.Linear(5, 3), nn.LayerNorm(3)), (), r"it has another shape of 0.weight;"),
    ],
)
def test_what_does_not_fit_a_start_is_named_whole(
    tmp_path: Path, other: nn.Module, new: tuple[str, ...], words: str
) -> None:
    path = tmp_path / checkpoint.WEIGHTS
    checkpoint.save_weights(path, model().state_dict())
    with pytest.raises(InputError, match=words):
        checkpoint.begin_with(path, other, new)


def test_without_names_of_new_weights_a_start_is_a_plain_loading(tmp_path: Path) -> None:
    path, first, second = tmp_path / checkpoint.WEIGHTS, model(), model()
    nn.init.zeros_(next(second.parameters()))
    checkpoint.save_weights(path, first.state_dict())
    assert checkpoint.begin_with(path, second, ()) == []
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
