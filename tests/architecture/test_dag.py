"""dvc.yaml tells the truth: a stage depends on the code that it imports, on the parameters that it reads, on the
folders that it is given, and on nothing else."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from dvc_file import is_code, lies, read_stages
from first_party import ROOT, SHOWN, code_deps, needs, plant, project


def test_dvc_yaml_tells_the_truth() -> None:
    problems = [problem for stage in read_stages(ROOT / "dvc.yaml") for problem in lies(project(), stage)]
    assert not problems, "\n".join(problems)


def test_dvc_does_not_take_bytecode_for_code() -> None:
    ignored = (ROOT / ".dvcignore").read_text(encoding="utf-8").splitlines()
    assert {"__pycache__", "__pycache__/"} & set(ignored), ".dvcignore must name __pycache__: folders of code are deps"


# a right project that the examples below change in one place
TRAIN: Final = """
from components.models.canvasmar import CanvasMARConfig
from components.nn import blocks
from pipeline import stage
class Params(Config):
    model: CanvasMARConfig
    search: SearchConfig
    experiments: dict[str, Experiment]
def main(
    params, *, latents: Path, videos: tuple[Path, ...], out: Path, seed: int, resume: Path | None = None, log: Run
): ...
def later():
    from components import flow
stage.run(main, rows="experiments")
"""
CODE: Final = {
    "components/__init__.py": '"""A house."""',
    "components/config.py": "",
    "components/errors.py": "",
    "components/flow.py": "import torch",
    "components/models/__init__.py": '"""Models."""',
    "components/models/canvasmar.py": "from components.config import Config",
    "components/nn/__init__.py": '"""Layers."""',
    "components/nn/blocks.py": "from components.nn.attention import Attention",
    "components/nn/attention.py": "import torch\nif TYPE_CHECKING:\n    from components.errors import InputError",
    "components/reporting/page.py": "TEMPLATE = 'page.html.j2'",
    "components/reporting/page.html.j2": "<html>",
    "components/reporting/tables.py": "",
    "pipeline/stage.py": "from components import config",
    "pipeline/train.py": TRAIN,
    "pipeline/report.py": "from components.reporting import page\ndef main(*, out: Path): ...",
}
RIGHT: Final[dict[str, Any]] = {
    "cmd": "python -m pipeline.train --row ${ key } --latents work/latents/${item.dataset} "
    "--videos work/videos/a work/videos/b --seed=1 --out work/runs/${key}",
    "params": ["models.${item.model}", "searches.${item.search}", "experiments"],
    "deps": [
        "components/config.py",
        "components/flow.py",
        "components/models",
        "components/nn",
        "pipeline/stage.py",
        "pipeline/train.py",
        "work/latents/${ item.dataset }",
        "work/videos",
    ],
    "outs": [{"work/runs/${key}": {"cache": True}}],
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
        with_one_more("deps", "components/models/__init__.py"),
        with_one_more("deps", "components/nn/blocks.py"),
        RIGHT | {"outs": ["metrics/train/${key}.json"], "metrics": ["work/runs/${key}"]},
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
        (without("deps", "components/flow.py"), "deps lack components/flow.py;"),
        (without("deps", "components/config.py"), "deps lack components/config.py;"),
        (without("deps", "pipeline/train.py"), "deps lack pipeline/train.py;"),
        (without("deps", "components/nn"), "deps lack components/nn/attention.py, components/nn/blocks.py;"),
        (with_one_more("deps", "components/errors.py"), "components/errors.py is a superfluous dep"),
        (
            with_one_more("deps", "components/reporting/tables.py"),
            "components/reporting/tables.py is a superfluous dep",
        ),
        (with_one_more("deps", "components/reporting/__init__.py"), "__init__.py is a superfluous dep"),
        (with_one_more("deps", "components/gone.py"), "components/gone.py is a superfluous dep"),
        (with_one_more("deps", "pipeline"), "does not import pipeline/report.py"),
        (without("params", "models.${item.model}"), "params lack model,"),
        (without("params", "searches.${item.search}"), "params lack search,"),
        (with_one_more("params", "samplers.${item.sampler}"), "samplers.${item.sampler} is a superfluous parameter"),
        (with_one_more("params", "models"), "models is a superfluous parameter"),
        (without("params", "experiments"), "params lack experiments,"),
        (with_one_more("params", "experiments.a"), "experiments.a is a superfluous parameter"),
        (with_one_more("params", "models.${item.model}.depth"), "must name a table or one entry"),
        (in_command("--seed=1", "--seed=1 --speed 2"), "--speed is no keyword of main"),
        (in_command("--seed=1", ""), "--seed is not given, but main needs it"),
        (RIGHT | {"outs": []}, "the stage writes work/runs/${key}, which is not among outs or metrics"),
        (RIGHT | {"metrics": []}, "the stage writes metrics/train/${key}.json, which is not"),
        (with_one_more("outs", "work/plots"), "work/plots is a superfluous out"),
        (in_command("--seed=1", "--seed=1 --log x"), "--log is no keyword of main"),
        (in_command("work/videos/b", "work/b"), "work/b is given to main but is not among the deps"),
        (with_one_more("deps", "work/latents/${item.dataset}/manifest.json"), "manifest.json is a superfluous dep"),
        (with_one_more("deps", "elsewhere/weights"), "elsewhere/weights is a superfluous dep"),
        (in_command("pipeline.train", "pipeline.gone"), "pipeline/gone.py does not exist"),
        (in_command("pipeline.train", "pipeline.stage"), "pipeline/stage.py has no function main"),
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


def test_what_a_stage_only_shows_makes_it_never_stale(tmp_path: Path) -> None:
    (shown,) = SHOWN
    code = {"pipeline/watched.py": f"import {shown[:-3].replace('/', '.')}", shown: "from components import flow"}
    tree = plant(tmp_path, code | {"components/flow.py": ""})
    assert needs(tree, "pipeline/watched.py") == {"pipeline/watched.py"}


def test_a_template_beside_the_code_is_part_of_the_code(tmp_path: Path) -> None:
    entry = {
        "cmd": "python -m pipeline.report --out work/report",
        "outs": ["work/report"],
        "metrics": ["metrics/report/report.json"],
    }
    code = ["components/reporting/page.py", "pipeline/report.py"]
    (problem,) = judge(tmp_path, entry | {"deps": code})
    assert "deps lack components/reporting/page.html.j2;" in problem
    assert judge(tmp_path, entry | {"deps": [*code, "components/reporting/page.html.j2"]}) == []


def test_a_row_that_is_not_given_is_found(tmp_path: Path) -> None:
    entry = in_command("--row ${ key }", "") | {"metrics": ["metrics/train/train.json"]}
    (problem,) = judge(tmp_path, entry)
    assert "--row is not given, but the stage takes rows" in problem


def test_a_row_for_a_stage_without_rows_is_found(tmp_path: Path) -> None:
    code = CODE | {"pipeline/train.py": TRAIN.replace('"experiments"', "None")}
    (problem,) = judge(tmp_path, RIGHT, code)
    assert "--row is given, but there are no rows" in problem


def test_the_printed_deps_are_the_right_ones(tmp_path: Path) -> None:
    tree = plant(tmp_path, CODE)
    assert code_deps(tree, "pipeline/train.py") == [dep for dep in RIGHT["deps"] if is_code(dep)]
    assert "components/reporting/page.html.j2" in code_deps(tree, "pipeline/report.py")


def test_no_parameter_has_a_name_that_the_run_cache_does_not_see() -> None:
    """DVC leaves keys named size and nfiles out of the hash by which it finds an earlier run of a stage."""
    files = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]
    assert len(files) > 1
    for file in files:
        keys = re.findall(r"[\w-]+(?=:)", re.sub(r"#.*", "", file.read_text(encoding="utf-8")))
        assert not {"size", "nfiles"} & set(keys), f"{file.name} has a parameter that changes without a new run"
