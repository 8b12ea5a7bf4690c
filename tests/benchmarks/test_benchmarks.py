"""The benchmarks measure what their tables say, at sizes that take no time."""

import json
import subprocess
import sys
from unittest.mock import patch

import pytest
import torch
import yaml

from benchmarks import arithmetic, choices, clock, latents, sampling, table, training
from benchmarks.choices import Choices
from components.foundation import allocator
from components.foundation.randomness import Stream
from components.foundation.settings import presets
from components.sampling.frame import SamplerConfig
from components.sampling.rollout import rollout
from components.training.optimizer import RecipeConfig
from tests.behaviour.conftest import LATENT, tiny_config
from tests.pipeline.conftest import ROOT, tiny

RATE = 1e9


@pytest.fixture
def run() -> Choices:
    return Choices("kuka", torch.device("cpu"), "float32", (1, 2), 1, True)


def samplers() -> tuple[SamplerConfig, SamplerConfig]:
    default, fast = (choices.entry("kuka", SamplerConfig, "samplers", row) for row in ("default", "fast"))
    return default.model_copy(update={"flow_steps": 6}), fast.model_copy(update={"flow_steps": 2})


def test_the_sampling_table_has_a_full_row_for_every_case_with_the_operations_of_the_closed_form(run):
    several = sampling.cases(tiny_config(), *samplers(), 2, (2, 4, 32), gpu=False)
    lines = sampling.rows(several, 2, run, RATE)
    assert [line["case"] for line in lines] == [
        "random order, no canvas", "Temporal ViT recomputed", "canvas", "canvas", "no canvas", "guided", "heun",
        "fast", "fast, guided",
    ]  # fmt: skip
    for case, line in zip(several, lines, strict=True):
        assert line.keys() == set(sampling.COLUMNS)
        assert None not in line.values()
        operations = sampling.work(case, 2)
        assert [line[column] for column in arithmetic.COLUMNS] == [operations[part] / 1e9 for part in arithmetic.PARTS]
        assert line["floor ms"] == pytest.approx(sum(operations.values()) / RATE * 1000)
        assert line["times the floor"] == pytest.approx(line["clip ms"] / line["floor ms"])
        assert line["faster than baseline"] == pytest.approx(lines[0]["clip ms"] / line["clip ms"])
        assert line["faster than recomputed"] == pytest.approx(lines[1]["clip ms"] / line["clip ms"])
        assert 0 < line["first frame ms"] < line["clip ms"]
    assert [line["branches"] for line in lines] == [1, 1, 1, 1, 1, 3, 1, 1, 3]
    assert [line["evaluations"] for line in lines] == [6, 6, 6, 6, 6, 6, 2, 2, 2]


def test_on_a_gpu_the_default_way_is_also_measured_with_its_kernels_launched_one_by_one(run):
    (launched,) = (case for case in sampling.cases(tiny_config(), *samplers(), 1, (4,), gpu=True) if not case.replays)
    model, asked = launched.model.build().eval(), []
    with patch("components.sampling.frame.run_graphed", lambda *_: asked.append(1)):
        assert sampling.time(model, launched, 2, run).clip > 0
    assert launched.name == sampling.LAUNCHED
    assert not asked


def test_sets_that_a_frame_cannot_have_are_left_out():
    several = sampling.cases(tiny_config(), *samplers(), 1, (2, 64), gpu=False)
    assert [case.sampler.sets for case in several if case.name == "canvas"] == [2]
    assert several[0].sampler.sets == 16


def test_recomputing_the_history_gives_the_rollout_that_remembers():
    torch.manual_seed(0)
    model = tiny_config().build().eval()
    context, chance = torch.randn(2, 1, *LATENT), Stream.of(0, range(2))
    pairs = zip(
        rollout(model, context, 4, chance, samplers()[0]),
        sampling.recompute(model, context, 4, chance, samplers()[0]),
        strict=True,
    )
    for remembered, recomputed in pairs:
        torch.testing.assert_close(remembered.latent, recomputed.latent, atol=1e-4, rtol=1e-4)


def test_the_training_table_has_a_full_row_with_and_without_a_canvas_at_each_batch(run):
    recipe = choices.entry("kuka", RecipeConfig, "recipes", "model")
    lines = training.rows(tiny_config(), recipe, run, RATE)
    assert [(line["case"], line["batch"]) for line in lines] == [
        ("canvas", 1), ("no canvas", 1), ("canvas", 2), ("no canvas", 2)
    ]  # fmt: skip
    for line in lines:
        assert line.keys() == set(training.COLUMNS)
        assert None not in line.values()
        phases = sum(line[f"{phase} ms"] for phase in training.PHASES)
        assert line["step ms"] == pytest.approx(phases)
        assert line["clips/s"] == pytest.approx(line["batch"] / line["step ms"] * 1000)
        # seven of eight frames are predicted, and 70 to 100 % of their 16 tokens are masked
        assert 7 * 16 * 0.7 - 7 <= line["tokens/s"] / line["clips/s"] <= 7 * 16
        assert line["times the floor"] == pytest.approx(line["step ms"] / line["floor ms"])
    assert lines[0]["canvas GFLOP"] > 0
    assert lines[1]["canvas GFLOP"] == 0
    assert lines[1]["pace to no canvas"] == 1


def test_a_training_step_is_measured_with_its_own_number_of_visible_tokens(run):
    recipe = choices.entry("kuka", RecipeConfig, "recipes", "model").model_copy(
        update={"batch": 1, "workers": 1, "precision": "float32"}
    )
    several = Choices("kuka", run.device, "float32", (1,), 4, True)
    visible = [step.visible for step in training.steps(tiny_config(), recipe, 4, several)]
    assert len(visible) == 4
    assert len(set(visible)) > 1


def test_the_rate_of_matrix_products_is_a_rate():
    assert 1e8 < clock.matmul_rate(torch.device("cpu"), torch.float32, 256, 3) < 1e14


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets the peak of a process's memory")
def test_the_peak_of_memory_forgets_what_was_freed_and_sees_what_is_held():
    device = torch.device("cpu")
    allocator.keep()  # as every benchmark does
    *_, last = [torch.ones(1_000_000) for _ in range(60)]  # what is freed lies below what is held, in the heap's middle
    torch.ones(50_000_000).sum()
    clock.forget_peak(device)
    before = clock.peak(device)
    held = torch.ones(50_000_000)
    assert clock.peak(device) == pytest.approx(before + 200, abs=20)
    del held, last, _


def test_a_table_is_the_same_in_both_of_its_files(tmp_path):
    written = table.Table("Title", {"size": "tiny", "rate": 12.345}, ("case", "ms"), [{"case": "a", "ms": None}])
    table.write(tmp_path / "t.json", written)
    table.write(tmp_path / "deep" / "t.md", written)
    assert json.loads((tmp_path / "t.json").read_text())["rows"] == [{"case": "a", "ms": None}]
    assert (tmp_path / "deep" / "t.md").read_text() == (
        "## Title\n\nsize tiny, rate 12.3\n\n| case | ms |\n| --- | --- |\n| a | – |\n"
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (7, "7"), ("a", "a"), (1234.5, "1234"), (12.34, "12.3"), (1.234, "1.23"), (0.01234, "0.0123")],
)
def test_numbers_are_shown_with_three_digits(value, shown):
    assert table.text(value) == shown


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--batch", "0"], "--batch"),
        (["--repeats", "0"], "--repeats"),
        (["--frames", "0"], "--frames"),
        (["--out", "table.csv"], "--out"),
        pytest.param(
            ["--device", "cuda"], "no GPU", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU")
        ),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_sentence(given, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", *given])
    with pytest.raises(SystemExit) as left:
        choices.run(sampling.options(), sampling.benchmark)
    assert left.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "module",
    ["sampling", "training", "floor", "predictor", pytest.param("training_overhead", marks=pytest.mark.faults)],
)
def test_a_benchmark_runs_from_the_command_line(module, tmp_path):
    out = tmp_path / "table.json"
    command = [sys.executable, "-m", f"benchmarks.{module}", "--quick", "--repeats", "1", "--batch", "1"]
    frames = ["--frames", "1"] if module == "sampling" else []
    done = subprocess.run([*command, *frames, "--out", str(out)], cwd=choices.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    content = json.loads(out.read_text())
    assert all(row.keys() == set(content["columns"]) for row in content["rows"])
    assert content["title"] in done.stdout


@pytest.mark.faults
def test_the_plan_of_the_default_is_within_15_percent_of_the_work_and_memory_of_real_steps(tmp_path):
    out = tmp_path / "table.json"
    command = [sys.executable, "-m", "benchmarks.planned", "--quick", "--repeats", "1", "--device", "cpu"]
    subprocess.run([*command, "--out", str(out)], cwd=choices.ROOT, check=True, capture_output=True)
    content = json.loads(out.read_text())
    (line,) = content["rows"]
    assert line.keys() == set(content["columns"])
    assert line["ratio of work"] == pytest.approx(1, abs=0.15)
    assert line["ratio of memory"] == pytest.approx(1, abs=0.15)
    assert line["seconds"] > 0 < line["passed"]


def test_encoding_is_measured_beside_the_bare_encoder(tmp_path):
    params = tiny(presets.read(ROOT / "presets" / "kuka.yaml"))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    measured = latents.measure("kuka-vae", tmp_path / "params.yaml", 8, 2, torch.device("cpu"))
    ours, bare, share = (row["clips/s"] for row in measured.rows)
    assert ours > 0
    assert bare > 0
    assert 0 < share <= 1.5
    assert measured.facts["batch"] == 64  # of the smaller clips more at once
