"""The comparison of the families: what is measured, and what its document says of rows with and without scores."""

import json

import pytest
import torch

from benchmarks import choices, comparison, families
from benchmarks.choices import Choices
from components.foundation.errors import InputError
from components.foundation.settings import presets
from components.sampling.frame import SamplerConfig
from tests.behaviour.conftest import tiny_config
from tests.behaviour.families import opened
from tests.behaviour.test_families import recipe

ROWS = list(presets.read(families.PRESET)["experiments"])


def test_every_family_gets_a_full_line_and_tokens_are_those_that_carry_the_loss(monkeypatch):
    sampler = choices.entry("kuka", SamplerConfig, "samplers", "default").model_copy(update={"flow_steps": 5})
    monkeypatch.setattr(families, "FRAMES", 5)
    one = sampler.model_copy(update={"sets": 1, "order": "random"})
    several = [
        families.Family("canvas", tiny_config().build(), sampler, recipe()),
        families.Family("full-frame", opened("full_frame", group=2), one, recipe()),
    ]
    run = Choices("kuka", torch.device("cpu"), "float32", (2,), 5, True)  # medians: the machine may be busy
    lines = families.measure(several, 2, 2, run)
    for line in lines:
        assert line.keys() == set(families.COLUMNS)
        assert None not in line.values()
        assert 0 < line["first frame ms"] <= line["clip ms"]
    assert lines[0]["first frame, of anchor"] == lines[1]["first frame ms"] / lines[0]["first frame ms"]
    assert lines[1]["clip, of anchor"] == 1.0
    # both frames of the group stand at once; the other model's come one after the other
    assert lines[1]["first frame ms"] > 0.8 * lines[1]["clip ms"]
    assert lines[0]["first frame ms"] < 0.8 * lines[0]["clip ms"]


@pytest.fixture
def measured(tmp_path):
    lines = [
        {
            "family": row, "batch": batch, "first frame ms": 10.0 * number, "clip ms": 80.0 * number * batch,
            "sampling MB": 500.0, "tokens/s": 1000.0, "parameters M": 2.6, "training GFLOP a clip": 10.0,
        }
        for number, row in enumerate(ROWS, 1)
        for batch in (1, 16)
    ]  # fmt: skip
    path = tmp_path / "families.json"
    path.write_text(json.dumps({"rows": lines}))
    return path


def scored(folder, row, fvd):
    (folder / row).mkdir(parents=True)
    line = {"name": row, "clips": 64, "fvd": fvd, "fvd_low": fvd - 100, "fvd_high": fvd + 100, "kvd": 5.0}
    content = {
        "row": row,
        "protocol": {"clips": 64, "description": "64 clips"},
        "scores": [line, {"name": "copy last frame", "clips": 64, "fvd": 900.0}],
        "drift": [],
        "calibration": None,
        "milliseconds_per_frame": 1.0,
        "parameters": 1,
        "sampler": {},
    }
    (folder / row / "scores.json").write_text(json.dumps(content))


def test_the_document_has_every_row_names_what_is_missing_and_does_not_claim_an_order_that_it_cannot(
    measured, tmp_path
):
    document, folder = tmp_path / "comparison.md", tmp_path / "evaluations"
    document.write_text(f"# Title\n\n{comparison.BEGIN}\nold\n{comparison.END}\n\nafter\n")
    scored(folder, ROWS[0], 1000.0)
    comparison.compare(folder, measured, document)
    written = document.read_text()
    assert "old" not in written
    assert written.endswith("after\n")
    assert f"| {ROWS[0]} | 1000 (900 to 1100) |" in written
    assert f"| {ROWS[1]} | – |" in written
    assert "| copy last frame | 900 |" in written
    assert f"Not evaluated yet: {', '.join(ROWS[1:])}" in written
    assert f"{ROWS[0]} samples the first frame 5.00 times as fast as {ROWS[-1]}." in written
    assert not document.with_suffix(".png").exists()
    scored(folder, ROWS[1], 1050.0)
    comparison.compare(folder, measured, document)
    assert "cannot rank them" in document.read_text()
    assert document.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"


def test_a_document_without_marks_and_a_table_without_a_row_are_told_in_one_sentence(measured, tmp_path):
    document = tmp_path / "comparison.md"
    document.write_text("nothing")
    with pytest.raises(InputError, match="lacks the line"):
        comparison.compare(tmp_path, measured, document)
    content = json.loads(measured.read_text())
    measured.write_text(json.dumps({"rows": content["rows"][:-1]}))
    with pytest.raises(InputError, match=f"lacks {ROWS[-1]} at batch 1 or 16"):
        comparison.compare(tmp_path, measured, document)
