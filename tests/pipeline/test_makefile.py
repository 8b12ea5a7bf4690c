"""`make` in a project whose path holds what means something to a shell, and with any interpreter."""

import importlib.util
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.pipeline.conftest import ROOT, environment

# writes a `python` and a `canvasmar` that print how they were called, in place of a virtual environment
VENV = """#!/bin/sh
[ "$1" = -m ] || exit 0
mkdir -p "$3/bin"
for name in python canvasmar; do
  printf '#!/bin/sh\\nprintf "<%%s>" "$0" "$@"\\necho\\n' > "$3/bin/$name"
  chmod +x "$3/bin/$name"
done
"""


@pytest.mark.parametrize("name", ["plain", "a b", "a#b", "a%20b", "it's", "$HOME", "a;b"])
def test_make_uses_the_projects_own_environment_whatever_the_path(tmp_path: Path, name: str) -> None:
    project = tmp_path / name
    project.mkdir()
    for file in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / file, project)
    maker = tmp_path / "make-venv"
    maker.write_text(VENV)
    maker.chmod(0o755)
    for _ in range(2):  # the second call finds the environment ready
        command = ("make", "--silent", "ui", f"PYTHON={maker}")
        done = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"<{project}/.venv/bin/canvasmar><ui>"
    assert len(list((tmp_path / name).iterdir())) == 4


def environment_script():
    spec = importlib.util.spec_from_file_location("environment", ROOT / "deploy" / "environment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("system", "version", "sentence"),
    [
        ("Linux", (3, 10), "Python 3.10 is older than 3.11; install a newer one and name it: make PYTHON=python3.13"),
        ("Windows", (3, 12), "Windows is not supported, because the pipeline locks files with fcntl"),
        ("Linux", (3, 11), None),
        ("Darwin", (3, 13), None),
        ("Linux", (3, 14), None),
    ],
)
def test_interpreters_that_cannot_work_are_refused(system: str, version: tuple[int, int], sentence: str | None) -> None:
    refused = environment_script().problem(system, version)
    assert refused is None if sentence is None else refused.startswith(sentence)


def test_an_interpreter_newer_than_those_of_the_tests_is_noted() -> None:
    script = environment_script()
    assert script.note((3, 14)).startswith("Python 3.14 has not been tested, 3.11 to 3.13 have; ")
    assert script.note((3, 13)) is None


def test_the_versions_that_make_accepts_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    script = environment_script()
    assert project["requires-python"] == f">={script.OLDEST[0]}.{script.OLDEST[1]}"
    named = [line.rpartition(" ")[2] for line in project["classifiers"] if "Python :: 3." in line]
    assert named == [f"3.{minor}" for minor in range(script.OLDEST[1], script.NEWEST[1] + 1)]


@pytest.mark.parametrize(("needs", "build"), [(["sympy>=1"], "CPUs"), (["nvidia-cudnn-cu13==9; x"], "GPUs")])
@pytest.mark.parametrize("gpu", [None, "/usr/bin/nvidia-smi"])
def test_setup_says_which_torch_it_will_download(needs: list[str], build: str, gpu: str | None) -> None:
    report = {"install": [{"metadata": {"version": "2.13.0", "requires_dist": needs}}]}
    sentence = environment_script().download(report, gpu)
    assert sentence.startswith(f"installing torch 2.13.0 for {build}, Ray, MLflow and others: up to ")
    assert ("there is no GPU" in sentence) == (build == "GPUs" and gpu is None)


def test_make_stops_at_an_interpreter_that_is_refused(tmp_path: Path) -> None:
    for file in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / "python").write_text("#!/bin/sh\necho 'error: too old' >&2\nexit 2\n")
    (tmp_path / "python").chmod(0o755)
    command = ("make", "--silent", "setup", f"PYTHON={tmp_path / 'python'}")
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: too old\n")
    assert not (tmp_path / ".venv").exists()


def test_the_lock_holds_every_package_but_the_project_and_no_builds() -> None:
    report = {
        "install": [
            {"metadata": {"name": "torch", "version": "2.13.0+cpu"}, "download_info": {"archive_info": {}}},
            {"metadata": {"name": "PyYAML", "version": "6.0.3"}},
            {"metadata": {"name": "canvasmar-pipeline", "version": "0.1"}, "download_info": {"dir_info": {}}},
        ]
    }
    assert environment_script().constraints(report).splitlines() == ["pyyaml==6.0.3", "torch==2.13.0"]
