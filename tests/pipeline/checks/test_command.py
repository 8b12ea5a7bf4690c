"""The command `check`, and `plan` as far as it checks."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.foundation.config import dump_yaml
from components.foundation.errors import InputError
from components.foundation.settings import presets
from pipeline.checks import command
from pipeline.commands import plan
from tests.pipeline.conftest import CANVASMAR, ROOT, environment, tiny


def write(folder: Path, **changes: Any) -> Path:
    tables = tiny(presets.read(ROOT / "presets" / "kuka.yaml"))
    for path, value in changes.items():
        table, entry, key = path.split(".")
        tables[table][entry][key] = value
    file = folder / "params.yaml"
    file.write_text(dump_yaml(tables), encoding="utf-8")
    return file


def test_parameters_without_problems_have_status_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(write(tmp_path)) == 0
    assert capsys.readouterr().out.endswith("params.yaml: no problems in 2 rows\n")


def test_all_problems_are_printed_at_once_with_status_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, **{"recipes.model.clip": 0, "recipes.vae.learning_rate": -1, "protocols.kuka.clips": 99})
    assert command.run(file) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert all(line.startswith(f"error: {file}: ") for line in lines)
    for words in ("clip is 0: it must be above 0", "learning_rate is -1: it must be above 0", "clips is 99, but"):
        assert len([line for line in lines if words in line]) == 1, words


def test_a_plan_of_parameters_with_problems_is_their_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, **{"samplers.no-canvas.sets": 99, "recipes.model.validation_clips": 2})
    assert plan.run("kuka-canvasmar", file, [1.0]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "samplers.no-canvas: sets is 99, but models.no-canvas takes at most 16" in printed.err


def test_make_repro_checks_first() -> None:
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    for target in (index for index, line in enumerate(lines) if line == "\tdvc repro"):
        assert lines[target - 1] == "\tpython -m pipeline.commands.cli check"


def test_the_command_line_has_the_status(tmp_path: Path) -> None:
    import subprocess

    shell = environment() | {"PYTHONPATH": str(ROOT)}
    write(tmp_path, **{"recipes.model.ema": 1})
    done = subprocess.run((*CANVASMAR, "check"), cwd=tmp_path, env=shell, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "error: params.yaml: recipes.model: recipe.ema is 1: it must be at least 0 and below 1"
    )


def test_a_dvc_project_that_is_not_a_git_repository_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path)
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(InputError, match=r"is not a git repository, and DVC refuses to run; run `git init` there, or"):
        command.run(file)
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    assert command.run(file) == 0
    (tmp_path / ".dvc" / "config").unlink()
    (tmp_path / ".git").mkdir()
    assert command.run(file) == 0


def test_a_repository_of_another_user_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path)
    (tmp_path / ".dvc").mkdir()
    subprocess.run(("git", "init", "-q", tmp_path), check=True)
    assert command.run(file) == 0
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(InputError, match=r"belongs to another user; if you trust it, run `git config --global --add"):
        command.run(file)


def test_data_behind_a_link_is_refused_with_the_way_to_another_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path)
    for folder in (".dvc", ".git", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"^data is a link, and DVC refuses .* `dvc cache dir --local FOLDER`"):
        command.run(file)


@pytest.mark.parametrize("path", [".", "data", "..", "data/clips"])
def test_videos_around_the_outputs_of_the_stages_are_refused(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "clips").mkdir(parents=True)
    file = write(tmp_path, **{"datasets.kuka.path": path})
    with pytest.raises(InputError, match=r"datasets\.kuka\.path is .* so DVC cannot track it; move the videos"):
        command.run(file)
