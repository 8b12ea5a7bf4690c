"""What a newcomer does first: the quickstart, the site, and the wheel."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from components.video import video
from tests.pipeline.conftest import ROOT
from tests.pipeline.untrained import build

SCRIPT = ROOT / "examples" / "quickstart.py"


def run(*command: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=ROOT, **more)


def test_the_quickstart_is_short_and_continues_a_video(tmp_path):
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) < 30
    folder = build(tmp_path)
    out = tmp_path / "out.mp4"
    given = (str(folder), "kuka-canvasmar", str(folder / "videos" / "one.mp4"), str(out))
    done = run(sys.executable, str(SCRIPT), *given, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("canvas predicted first") == 16
    assert len(video.read(out, (32, 32)).frames) == 17


def test_the_quickstart_says_what_it_wants():
    done = run(sys.executable, str(SCRIPT), env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"})
    assert done.returncode == 1
    assert done.stderr == "usage: python examples/quickstart.py PROJECT ROW VIDEO OUT.mp4\n"


def test_the_site_builds_without_a_broken_link_and_holds_every_parameter(tmp_path):
    pytest.importorskip("mkdocs")
    done = run(sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site"))
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "site" / "reference" / "params" / "index.html").read_text(encoding="utf-8")
    for field in ("temporal_scale", "canvas_noise", "activation_checkpointing", "static_scale", "max_rejected"):
        assert f"<code>{field}</code>" in text
    reference = (tmp_path / "site" / "reference" / "pipeline-commands" / "index.html").read_text(encoding="utf-8")
    assert "pipeline.commands.video_predictor.VideoPredictor.stream" in reference


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder))
    done = run(sys.executable, "-m", "pip", "wheel", ".", *options)
    if "No module named 'setuptools'" in done.stderr + done.stdout:
        pytest.skip("setuptools is not installed beside pip, and building alone would fetch it")
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_every_module_and_the_template_and_no_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        str(path.relative_to(ROOT)) for name in ("components", "pipeline") for path in (ROOT / name).rglob("*.py")
    }
    assert modules | {"components/reporting/page.html.j2"} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))]


def test_the_quickstart_runs_with_the_installed_wheel_and_without_the_checkout(wheel, tmp_path):
    place, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    options = ("--no-deps", "--no-index", "--quiet", "--target", str(place))
    done = run(sys.executable, "-m", "pip", "install", *options, str(wheel))
    assert done.returncode == 0, done.stderr
    script = shutil.copy(SCRIPT, elsewhere)
    program = (
        "import runpy, sys\n"
        "place, checkout, script, *sys.argv[1:] = sys.argv[1:]\n"
        "sys.path[:] = [place, *(path for path in sys.path if path not in ('', checkout))]\n"
        "runpy.run_path(script, run_name='__main__')\n"
        "names = [name for name in sys.modules if name.split('.')[0] in ('components', 'pipeline')]\n"
        "ours = [sys.modules[name].__file__ for name in names]\n"
        "assert len(ours) > 20 and all(file.startswith(place) for file in ours), ours\n"
    )
    folder, out = build(tmp_path / "project"), elsewhere / "out.mp4"
    given = (str(folder), "kuka-canvasmar", str(folder / "videos" / "one.mp4"), str(out))
    command = (sys.executable, "-c", program, str(place), str(ROOT), script, *given)
    done = subprocess.run(
        command, cwd=elsewhere, capture_output=True, text=True, timeout=280, env={"PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 0, done.stderr
    assert len(video.read(out, (32, 32)).frames) == 17
