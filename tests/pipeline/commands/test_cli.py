"""The command `canvasmar`: help, examples, completion, and errors for bad input."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main
import yaml
from typer.testing import CliRunner

from components.foundation.settings import presets
from pipeline.commands.cli import app
from tests.pipeline.conftest import CANVASMAR, ROOT, environment
from tests.pipeline.untrained import build

COMMANDS = ("predict", "demo", "serve", "submit", "plan", "preset", "check", "verify", "repair", "ui")
HEAVY = {"torch", "ray", "mlflow", "gradio", "numpy"}
EXAMPLE = re.compile(r"^(?:\w+=\S+ |\.venv/bin/)?canvasmar (.+)$", re.MULTILINE)
# the commands of a bash block of these pages, apart from a comment behind them
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# what MLflow and Ray log to stderr by themselves
REMARK = re.compile(r"\b(INFO|WARNING)\b")
BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)


def canvasmar(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    shell = environment() | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"} | variables
    return subprocess.run((*CANVASMAR, *words), cwd=folder, env=shell, capture_output=True, text=True, timeout=300)


def help_of(*words: str) -> str:
    shown = CliRunner().invoke(app, [*words, "--help"], prog_name="canvasmar")
    assert shown.exit_code == 0, shown.output
    return shown.output


def examples(text: str) -> list[list[str]]:
    """The words behind `canvasmar` in each example of a text, comments and continued lines resolved."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = [line.strip() for line in joined.splitlines()]
    return [shlex.split(found[1], comments=True) for line in lines if (found := EXAMPLE.match(line))]


def parse(words: list[str]) -> None:
    """Parse a command line without running it. Raises a usage error for unknown commands and options."""
    group = typer.main.get_group(app)
    if words[0].startswith("-"):
        assert words[0] in {option for param in group.params for option in param.opts} | {"--help"}, words
        return
    assert words[0] in group.commands, words
    if "--help" not in words:
        group.commands[words[0]].make_context(words[0], words[1:])


def test_help_lists_the_commands_and_imports_nothing_heavy(tmp_path):
    program = (
        "import json, sys\n"
        "from pipeline.commands.cli import app\n"
        "status = app(['--help'], standalone_mode=False)\n"
        "print(json.dumps([status, sorted({name.partition('.')[0] for name in sys.modules})]))\n"
    )
    shell = environment() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run((sys.executable, "-c", program), cwd=tmp_path, env=shell, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *shown, last = done.stdout.splitlines()
    status, imported = json.loads(last)
    assert not status
    assert HEAVY & set(imported) == set()
    listed = shown[shown.index("Commands:") + 1 :]
    assert [line.split()[0] for line in listed[: listed.index("")]] == list(COMMANDS)
    assert not [line for line in listed if line.endswith("...")], "a description is cut off at 80 columns"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_has_examples_that_parse(command):
    found = examples(help_of(command))
    assert found
    assert {words[0] for words in found} == {command}
    for words in found:
        parse(words)


def test_every_command_line_of_the_pages_parses():
    blocks = [block for page in PAGES for block in BLOCK.findall(page.read_text(encoding="utf-8"))]
    found = examples("\n".join(blocks))
    assert {words[0] for words in found} >= {"predict", "demo", "serve", "submit", "verify", "repair"}
    for words in found:
        parse(words)


def test_the_project_installs_the_command():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts == {"canvasmar": "pipeline.commands.cli:app"}


def test_the_shell_completes_commands_and_options(tmp_path):
    asked = {"_CANVASMAR_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    assert canvasmar(tmp_path, COMP_WORDS="canvasmar s", **asked).stdout.split() == ["serve", "submit"]
    asked |= {"COMP_CWORD": "2"}
    assert canvasmar(tmp_path, COMP_WORDS="canvasmar predict --fr", **asked).stdout.split() == ["--frames"]


def test_version_is_that_of_the_installed_package():
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.output.split()[0]) == (0, "canvasmar")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("bogus", "No such command 'bogus'"),
        ("predict --row x --scale 0", "Invalid value for '--scale'"),
        ("predict clip.mp4", "Missing option '--row'"),
        ("predict clip.mp4 --row x --frames many", "Invalid value for '--frames'"),
        ("demo --port 70000", "Invalid value for '--port'"),
        ("serve --row x --port 0", "Invalid value for '--port'"),
        ("submit --cpus -1", "Invalid value for '--cpus'"),
        ("plan", "Missing option '--row'"),
        ("verify", "Missing argument 'PATH'"),
        ("repair --check", "Missing option '--clips'"),
        ("ui --port 5001", "No such option"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_status_two(words, sentence):
    done = CliRunner().invoke(app, shlex.split(words), prog_name="canvasmar")
    assert done.exit_code == 2
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith(("Usage: ", "Try ")) and line]
    assert line.startswith(f"Error: {sentence}")
    assert done.stdout == ""


def test_windows_is_refused_with_one_sentence(monkeypatch):
    monkeypatch.setattr("pipeline.commands.cli.sys.platform", "win32")
    done = CliRunner().invoke(app, ["check"], prog_name="canvasmar")
    assert done.exit_code == 2
    assert done.stderr == (
        "error: Windows is not supported, because the pipeline locks files with fcntl; use Linux, macOS or WSL\n"
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = build(tmp_path_factory.mktemp("untrained"))
    (folder / "broken").mkdir()
    (folder / "broken" / "gone.mp4").symlink_to("nowhere")
    params = presets.read(ROOT / "presets" / "own-videos.yaml")
    for path in ("broken", "missing", "videos"):
        (dataset,) = params["datasets"].values()
        dataset["path"] = path
        (folder / f"{path}.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return folder


def test_folders_that_a_simulation_will_make_may_be_missing(project):
    done = canvasmar(project, "check", "--params", str(ROOT / "params.yaml"))
    assert done.stdout == f"{ROOT / 'params.yaml'}: no problems in 3 rows\n", done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("predict videos/one.mp4 --row other", "row 'other' is not trained"),
        ("predict videos/none.mp4 --row kuka-canvasmar --device cpu", "videos/none.mp4 does not exist"),
        ("demo --device teapot", "torch cannot use the device teapot"),
        ("serve --row other", "row 'other' is not trained"),
        ("submit --list --stop x", "--list and --stop exclude each other"),
        ("plan --row other --params nowhere.yaml", "nowhere.yaml does not exist"),
        ("check --params broken.yaml", "holds files that DVC cannot read (gone.mp4 is a broken link to nowhere)"),
        ("check --params missing.yaml", "the folder of videos missing does not exist; correct the data set's path"),
        ("verify nowhere", "nowhere does not exist"),
        ("repair --clips nowhere", "nothing to repair; add --videos"),
    ],
)
def test_bad_input_is_one_sentence_and_status_two(project, words, sentence):
    done = canvasmar(project, *shlex.split(words))
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not REMARK.search(line)]
    assert line.startswith("error: ")
    assert sentence in line
