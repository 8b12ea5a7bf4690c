"""`make` in a project whose path holds what means something to a shell."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.pipeline.conftest import ROOT, environment

# writes a `python` and a `canvasmar` that print how they were called, in place of a virtual environment
VENV = """#!/bin/sh
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
