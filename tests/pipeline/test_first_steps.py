"""What a newcomer does first: the quickstart, the site, and the wheel."""

import subprocess
import sys
import zipfile

import pytest

from components.data import video
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
    assert done.stdout.count("its canvas came first") == 16
    assert len(video.read(out, (32, 32)).frames) == 17


@pytest.mark.slow
def test_the_site_builds_without_a_broken_link_and_holds_every_parameter(tmp_path):
    pytest.importorskip("mkdocs")
    done = run(sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site"))
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "site" / "reference" / "params" / "index.html").read_text(encoding="utf-8")
    for field in ("temporal_scale", "canvas_noise", "activation_checkpointing", "static_scale", "max_rejected"):
        assert f"<code>{field}</code>" in text
    reference = (tmp_path / "site" / "reference" / "pipeline" / "index.html").read_text(encoding="utf-8")
    assert "pipeline.video_predictor.VideoPredictor.stream" in reference


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_their_template_and_no_tests(tmp_path):
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(tmp_path))
    done = run(sys.executable, "-m", "pip", "wheel", ".", *options)
    if "No module named 'setuptools'" in done.stderr + done.stdout:
        pytest.skip("setuptools is not installed beside pip, and building alone would fetch it")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"components/flow.py", "pipeline/video_predictor.py", "components/reporting/page.html.j2"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))]
