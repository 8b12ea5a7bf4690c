"""dvc.yaml tells the truth: a stage depends on the code that it imports, on the parameters that it reads, on the
folders that it is given, and on nothing else."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.architecture.dvc_file import is_code, lies, read_stages
from tests.architecture.first_party import EXEMPT, ROOT, code_deps, needs, plant, project


def test_dvc_yaml_tells_the_truth() -> None:
    problems = [problem for stage in read_stages(ROOT / "dvc.yaml") for problem in lies(project(), stage)]
    assert not problems, "\n".join(problems)


def test_dvc_yaml_is_a_page_that_a_person_reads() -> None:
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    stages = yaml.safe_load(text)["stages"]
    assert [name for name, entry in stages.items() if not entry.get("do", entry).get("desc")] == []
    deps = {stage.name: sum(map(is_code, stage.deps)) for stage in read_stages(ROOT / "dvc.yaml")}
    assert {name: count for name, count in deps.items() if count > MOST_ROOMS} == {}


def test_every_artifact_is_an_output_of_a_row() -> None:
    artifacts = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["artifacts"]
    tables = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    made = {f"data/autoencoders/{row}" for row in tables["autoencoders"]}
    made |= {f"data/models/{row}" for row in tables["experiments"]}
    assert {entry["path"] for entry in artifacts.values()} == made


@pytest.mark.parametrize("stage", ["train_vae", "cache_latents", "train"])
def test_what_only_shows_or_serves_makes_no_training_stale(stage: str) -> None:
    deps = code_deps(project(), f"pipeline/{stage}.py")
    shown = {"components/reporting", "components/pictures", "components/telemetry", "pipeline/monitoring"}
    assert not {*shown, "pipeline/commands", "pipeline/jobs", "pipeline/tuning"} & set(deps)


def test_no_stage_and_no_score_depends_on_shipped_weights() -> None:
    """The folder pretrained/ is for the commands alone: what a project trains and reports is its own."""
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert not re.search(r"pretrained/|pipeline/commands", text)
    for stage in read_stages(ROOT / "dvc.yaml"):
        needed = project().closure(stage.source)
        assert not [path for path in needed if path.startswith("pipeline/commands/")], stage.name


def test_only_trainings_need_ray_train_and_only_searches_ray_tune() -> None:
    found = {stage.name: set(stage.deps) for stage in read_stages(ROOT / "dvc.yaml")}
    assert {name for name, deps in found.items() if "pipeline/fitting" in deps} == {"train_vae", "train"}
    assert {name for name, deps in found.items() if "pipeline/tuning" in deps} == {"sweep", "ablate"}


def test_dvc_does_not_take_bytecode_for_code() -> None:
    ignored = (ROOT / ".dvcignore").read_text(encoding="utf-8").splitlines()
    assert {"__pycache__", "__pycache__/"} & set(ignored), ".dvcignore must name __pycache__: folders of code are deps"


MOST_LINES: Final = 260
MOST_ROOMS: Final = 10  # code deps of a stage

# a right project that the examples below change in one place
TRAIN: Final = """
from components.models.canvasmar import CanvasMARConfig
from components.nn import blocks
from pipeline.runtime import stage
class Params(Config):
    model: CanvasMARConfig
    search: SearchConfig
    experiments: dict[str, Experiment]
def main(
    params, *, latents: Path, videos: tuple[Path, ...], out: Path, seed: int, resume: Path | None = None, log: Run
): ...
def later():
    from components import weights
stage.run(main, rows="experiments")
"""
CODE: Final = {
    "components/__init__.py": '"""A house."""',
    "components/foundation/config.py": "",
    "components/foundation/errors.py": "",
    "components/weights.py": "import torch",
    "components/models/__init__.py": '"""Models."""',
    "components/models/canvasmar.py": "from components.foundation.config import Config",
    "components/nn/__init__.py": '"""Layers."""',
    "components/nn/blocks.py": "from components.nn.attention import Attention",
    "components/nn/attention.py": "import torch\nif TYPE_CHECKING:\n    from components.foundation import errors",
    "components/reporting/page.py": "TEMPLATE = 'page.html.j2'",
    "components/reporting/page.html.j2": "<html>",
    "components/reporting/tables.py": "",
    "pipeline/runtime/stage.py": "from components.foundation import config",
    "pipeline/train.py": TRAIN,
    "pipeline/idle.py": "",
    "pipeline/report.py": "from components.reporting import page\ndef main(*, out: Path): ...",
}
RIGHT: Final[dict[str, Any]] = {
    "cmd": "python -m pipeline.train --row ${ key } --latents work/latents/${item.dataset} "
    "--videos work/videos/a work/videos/b --seed=1 --out work/runs/${key}",
    "params": ["models.${item.model}", "searches.${item.search}", "experiments"],
    "deps": [
        "components/foundation",
        "components/weights.py",
        "components/nn",
        "components/models",
        "pipeline/runtime",
        "pipeline/train.py",
        "work/latents/${ item.dataset }",
        "work/videos",
    ],
    "outs": [{"work/runs/${key}": {"cache": True}}, "data/usage/train/${key}.json"],
    "metrics": [{"metrics/train/${key}.json": {"cache": False}}],
}


def judge(root: Path, entry: Mapping[str, Any], code: Mapping[str, str] = CODE) -> list[str]:
    """What the checks say of one stage in a project of this code."""
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": entry}}), encoding="utf-8")
    (stage,) = read_stages(root / "dvc.yaml")
    return lies(plant(root, code), stage)


def without(key: str, item: str) -> dict[str, Any]:
    return RIGHT | {key: [entry for entry in RIGHT[key] if entry != item]}


def with_one_more(key: str, item: Any) -> dict[str, Any]:
    return RIGHT | {key: [*RIGHT[key], item]}


def in_command(old: str, new: str) -> dict[str, Any]:
    assert old in RIGHT["cmd"]
    return RIGHT | {"cmd": RIGHT["cmd"].replace(old, new)}


@pytest.mark.parametrize(
    "entry",
    [
        RIGHT,
        {"foreach": "${experiments}", "do": RIGHT},
        {"matrix": {"seed": [1, 2]}, **RIGHT},
        RIGHT
        | {"outs": ["metrics/train/${key}.json"], "metrics": ["work/runs/${key}", "data/usage/train/${key}.json"]},
        RIGHT | {"params": [{"params.yaml": ["models.${item.model}"]}, "searches.fine-grid", "experiments"]},
        with_one_more("deps", "${item.path}"),
        in_command("--seed=1", "--seed 1 --resume /somewhere/else"),
    ],
)
def test_the_truth_is_let_through(tmp_path: Path, entry: Mapping[str, Any]) -> None:
    assert judge(tmp_path, entry) == []


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (without("deps", "components/weights.py"), "deps lack components/weights.py;"),
        (without("deps", "components/foundation"), "deps lack components/foundation;"),
        (without("deps", "pipeline/train.py"), "deps lack pipeline/train.py;"),
        (without("deps", "components/nn"), "deps lack components/nn;"),
        (with_one_more("deps", "components/nn/blocks.py"), "components/nn/blocks.py is a superfluous dep"),
        (with_one_more("deps", "components/reporting"), "components/reporting is a superfluous dep"),
        (with_one_more("deps", "components/telemetry"), "no output depends on it"),
        (with_one_more("deps", "components/gone"), "components/gone is a superfluous dep"),
        (with_one_more("deps", "pipeline"), "pipeline is no room; name pipeline/runtime, pipeline/train.py"),
        (without("params", "models.${item.model}"), "params lack model,"),
        (without("params", "searches.${item.search}"), "params lack search,"),
        (with_one_more("params", "samplers.${item.sampler}"), "samplers.${item.sampler} is a superfluous parameter"),
        (with_one_more("params", "models"), "models is a superfluous parameter"),
        (without("params", "experiments"), "params lack experiments,"),
        (with_one_more("params", "experiments.a"), "experiments.a is a superfluous parameter"),
        (with_one_more("params", "models.${item.model}.depth"), "must name a table or one entry"),
        (in_command("--seed=1", "--seed=1 --speed 2"), "--speed is no keyword of main"),
        (in_command("--seed=1", ""), "--seed is not given, but main needs it"),
        (RIGHT | {"outs": RIGHT["outs"][1:]}, "the stage writes work/runs/${key}, which is not among outs or metrics"),
        (RIGHT | {"outs": RIGHT["outs"][:1]}, "the stage writes data/usage/train/${key}.json, which is not among outs"),
        (RIGHT | {"metrics": []}, "the stage writes metrics/train/${key}.json, which is not"),
        (with_one_more("outs", "work/plots"), "work/plots is a superfluous out"),
        (in_command("--seed=1", "--seed=1 --log x"), "--log is no keyword of main"),
        (in_command("work/videos/b", "work/b"), "work/b is given to main but is not among the deps"),
        (with_one_more("deps", "work/latents/${item.dataset}/manifest.json"), "manifest.json is a superfluous dep"),
        (with_one_more("deps", "elsewhere/weights"), "elsewhere/weights is a superfluous dep"),
        (in_command("pipeline.train", "pipeline.gone"), "pipeline/gone.py does not exist"),
        (in_command("pipeline.train", "pipeline.idle"), "pipeline/idle.py has no function main"),
    ],
)
def test_a_lie_is_found(tmp_path: Path, entry: Mapping[str, Any], words: str) -> None:
    (problem,) = judge(tmp_path, entry)
    assert problem.startswith("train: ")
    assert words in problem


@pytest.mark.parametrize("command", ["python pipeline/train.py", "bash train.sh", "python -m components.flow"])
def test_a_command_that_is_no_stage_is_found(tmp_path: Path, command: str) -> None:
    with pytest.raises(AssertionError, match=r"train: the command must be `python -m pipeline\.<module>"):
        judge(tmp_path, RIGHT | {"cmd": command})


def test_what_a_stage_only_records_makes_it_never_stale(tmp_path: Path) -> None:
    shown = [f"{room}/thing.py" for room in EXEMPT]
    imports = "\n".join(f"import {path[:-3].replace('/', '.')}" for path in shown)
    code = {"pipeline/watched.py": imports} | dict.fromkeys(shown, "from components import weights")
    tree = plant(tmp_path, code | {"components/weights.py": ""})
    assert needs(tree, "pipeline/watched.py") == {"pipeline/watched.py"}
    assert code_deps(tree, "pipeline/watched.py") == ["pipeline/watched.py"]


def test_a_template_beside_the_code_is_part_of_the_code(tmp_path: Path) -> None:
    assert "components/reporting/page.html.j2" in needs(plant(tmp_path, CODE), "pipeline/report.py")


def test_a_row_that_is_not_given_is_found(tmp_path: Path) -> None:
    entry = in_command("--row ${ key }", "") | {
        "metrics": ["metrics/train/train.json"],
        "outs": [*RIGHT["outs"][:1], "data/usage/train/train.json"],
    }
    (problem,) = judge(tmp_path, entry)
    assert "--row is not given, but the stage takes rows" in problem


def test_a_row_for_a_stage_without_rows_is_found(tmp_path: Path) -> None:
    code = CODE | {"pipeline/train.py": TRAIN.replace('"experiments"', "None")}
    (problem,) = judge(tmp_path, RIGHT, code)
    assert "--row is given, but there are no rows" in problem


def test_the_printed_deps_are_the_right_ones(tmp_path: Path) -> None:
    tree = plant(tmp_path, CODE)
    assert code_deps(tree, "pipeline/train.py") == [dep for dep in RIGHT["deps"] if is_code(dep)]
    assert code_deps(tree, "pipeline/report.py") == ["components/reporting", "pipeline/report.py"]


def test_no_parameter_has_a_name_that_the_run_cache_does_not_see() -> None:
    """DVC leaves keys named size and nfiles out of the hash by which it finds an earlier run of a stage."""
    files = sorted((ROOT / "presets").glob("*.yaml"))
    assert len(files) > 1
    for file in files:
        _, _, tables = file.read_text(encoding="utf-8").partition("\n\n")  # after the block `preset`
        keys = re.findall(r"[\w-]+(?=:)", re.sub(r"#.*", "", tables))
        assert not {"size", "nfiles"} & set(keys), f"{file.name} has a parameter that changes without a new run"
