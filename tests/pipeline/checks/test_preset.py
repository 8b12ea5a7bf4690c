"""`canvasmar preset` writes a preset as params.yaml, unless that loses changes, and lists what there is."""

import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.foundation.errors import InputError
from components.foundation.settings import presets
from pipeline.checks import preset
from pipeline.commands.cli import app
from tests.pipeline.conftest import ROOT


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project under git whose params.yaml is the default."""
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "all")
    return tmp_path


def git(folder: Path, *words: str) -> None:
    subprocess.run(("git", *words), cwd=folder, check=True)


def test_a_preset_and_the_default_again(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("bair", "kuka", "default"):  # the second one loses nothing: the preset bair has it
        preset.run(project, name, force=False)
        assert (project / "params.yaml").read_text() == presets.text(project / "presets" / f"{name}.yaml")
    assert (project / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()
    assert capsys.readouterr().out.splitlines()[0] == "params.yaml is the preset bair"


@pytest.mark.parametrize("state", ["edited", "staged", "untracked", "ignored", "no repository"])
def test_changes_that_are_not_committed_are_kept_unless_forced(project: Path, state: str) -> None:
    file = project / "params.yaml"
    file.write_text(file.read_text() + "\n# mine\n")
    if state == "staged":
        git(project, "add", "params.yaml")
    if state in ("untracked", "ignored"):
        git(project, "rm", "-q", "--cached", "params.yaml")
    if state == "ignored":
        (project / ".gitignore").write_text("params.yaml\n")
    if state == "no repository":
        shutil.rmtree(project / ".git")
    with pytest.raises(InputError, match=r"^params.yaml has changes that are not committed.*or add --force$"):
        preset.run(project, "bair", force=False)
    assert file.read_text().endswith("# mine\n")
    preset.run(project, "bair", force=True)
    assert file.read_text() == presets.text(project / "presets" / "bair.yaml")


def test_committed_changes_may_be_overwritten(project: Path) -> None:
    (project / "params.yaml").write_text("# mine\n")
    git(project, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qam", "mine")
    preset.run(project, "default", force=False)
    assert (project / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_an_unknown_preset_names_those_that_there_are(project: Path) -> None:
    with pytest.raises(InputError, match=r"there is no preset robot in .*; the presets are default, ablation, bair"):
        preset.run(project, "robot", force=True)


def test_the_list_says_what_each_preset_is_needs_costs_and_what_was_run(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset.run(project, None, force=False)
    lines = capsys.readouterr().out.splitlines()
    names = [line for line in lines if not line.startswith(" ")]
    assert names[0] == "default"
    assert sorted(names) == sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))
    for field in ("needs", "cost", "run"):
        assert sum(line.startswith(f"  {field}: ") for line in lines) == len(names)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("words", [["preset"], ["preset", "bair", "--list"]])
def test_a_name_or_the_list_and_not_both(words: list[str]) -> None:
    done = CliRunner().invoke(app, words, prog_name="canvasmar")
    assert done.exit_code == 2
    assert "give the name of a preset, or --list" in done.stderr
