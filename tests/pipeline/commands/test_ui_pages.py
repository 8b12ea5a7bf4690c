"""What a person sees in MLflow's pages: runs by names, a search and its trials, trials side by side, a film that plays.

`pictures` takes the documentation's pictures of any project that has runs, on a machine with a Chromium:
python -c 'from tests.pipeline.commands.test_ui_pages import *; pictures(Path("."), Path("docs"))'
"""

import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from components.telemetry import tracking
from components.video import video
from pipeline.tuning.sampler_trials import trial_name
from tests.pipeline.conftest import CANVASMAR, ROOT, environment, exposed, free_port

browsers = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SPACE = [{"temporal_scale": 1.2, "canvas_scale": scale, "sets": sets} for scale in (1.0, 2.25) for sets in (4, 8)]
STAGES = ("train@kuka-canvasmar", "train@kuka-no-canvas", "sweep@kuka-canvasmar", "evaluate@kuka-canvasmar")
SEEN = """link => {  // as much of a name as its column shows
  const text = link.querySelector("span").firstChild, range = document.createRange();
  const edge = link.closest("[role=gridcell]").getBoundingClientRect().right;
  range.setStart(text, 0);
  let end = 0;
  do range.setEnd(text, ++end); while (end < text.length && range.getBoundingClientRect().right < edge);
  return text.data.slice(0, end - 3);  // the dots take some
}"""


@contextmanager
def served(root: Path) -> Iterator[dict[str, str]]:
    """The links that `make ui` prints, for as long as it runs."""
    port = str(free_port())
    variables = environment() | {"PYTHONPATH": str(ROOT), "MLFLOW_UI_PORT": port}
    started = subprocess.Popen(
        (*CANVASMAR, "ui"), cwd=root, env=variables, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        links = {}
        while line := started.stdout.readline():
            if found := re.fullmatch(r"([\w ]+): +(http\S+)\n", line):
                links[found[1]] = found[2]
            elif "Ctrl-C" in line:
                break
        deadline = time.monotonic() + 180
        while started.poll() is None and time.monotonic() < deadline:
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            time.sleep(0.2)
        assert exposed(started.pid) == []
        yield links
    finally:
        below = psutil.Process(started.pid).children(recursive=True) if started.poll() is None else []
        for one in [started, *below]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        started.wait()


@contextmanager
def browser() -> Iterator[Any]:
    """An empty page of a person who has never been here, as wide as a small screen."""
    with browsers.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(120_000)
        try:
            yield page
        finally:
            opened.close()


def open_table(page: Any, links: dict[str, str]) -> Any:
    """The table of runs without the assistant beside it, and the first search in it opened; its row."""
    page.goto(links["table of runs"])
    search = page.locator(".ag-row", has=page.get_by_role("link", name="sweep@")).first
    search.wait_for()
    close = page.locator("[data-component-id='mlflow.assistant.chat_panel.close']")
    if close.count():
        close.click()
    search.get_by_role("button").click()
    page.get_by_role("link", name="0: ").first.wait_for()
    return search


def pictures(root: Path, folder: Path) -> None:
    """Takes mlflow-runs.png and mlflow-compare.png of the runs of a project."""
    with served(root) as links, browser() as page:
        open_table(page, links)
        time.sleep(2)
        page.screenshot(path=folder / "mlflow-runs.png")
        page.goto(links["its trials"])
        page.locator("svg text.axis-title").first.wait_for(state="attached")
        time.sleep(2)
        page.screenshot(path=folder / "mlflow-compare.png")


def fill(root: Path) -> None:
    torch.manual_seed(0)
    video.write(root / "00.mp4", torch.randint(0, 255, (24, 3, 64, 64), dtype=torch.uint8), 8)
    for name in STAGES:
        with tracking.run(name, root=root, tags={"stage": name.partition("@")[0]}, parameters={"seed": 0}) as log:
            if name.startswith("sweep"):
                for number, setting in enumerate(SPACE):
                    with log.handle.child(trial_name(number, setting), setting, {"part": "trial"}) as trial:
                        trial.metrics({"fvd": 900.0 - 10 * number, "milliseconds_per_frame": 3.0 * setting["sets"]})
            elif name.startswith("evaluate"):
                log.metrics({"fvd": 870.0, "psnr": 15.5})
                log.artifact(root / "00.mp4", "videos")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with runs as stages leave them: two trainings, a search of four trials, an evaluation with a film."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on the path")
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        fill(root)
        yield root


def test_runs_a_search_its_trials_side_by_side_and_a_film_are_there_for_a_person(project: Path) -> None:
    where = tracking.uri(project)
    (scored,) = tracking.connect(where).search_runs(["1"], "tags.stage = 'evaluate'")
    asked: list[str] = []
    with served(project) as links, browser() as page:
        page.on("request", lambda request: asked.append(request.url))
        open_table(page, links)
        names = page.locator(".ag-row a[href*='/runs/']")
        told = {one.inner_text() for one in names.all()}
        assert told == {*STAGES, *(trial_name(number, setting) for number, setting in enumerate(SPACE))}
        seen = [one.evaluate(SEEN) for one in names.all()]
        assert len(set(seen)) == len(told) == len(seen)
        assert all(len(part) > 5 for part in seen)

        page.goto(links["its trials"])
        axes = page.locator("svg text.axis-title")
        axes.first.wait_for(state="attached")
        titles = axes.all_text_contents()
        assert {"canvas_scale", "sets"} <= set(titles)
        assert {"fvd", "milliseconds_per_frame"} & set(titles)
        assert page.get_by_role("link", name="Model registry").is_visible()  # the pages for models, not for prompts

        base = links["table of runs"].partition("?")[0]
        page.goto(f"{base}/{scored.info.run_id}/artifacts/videos/00.mp4")
        page.locator("video").wait_for()
        play = "film => { film.muted = true; film.play(); }"
        page.locator("video").evaluate(play)
        page.wait_for_function("document.querySelector('video').currentTime > 1")
        assert page.locator("video").evaluate("film => [film.videoWidth, film.error]") == [64, None]
    at_home = ("data:", "blob:", base.partition("/#")[0])
    assert [url for url in asked if not url.startswith(at_home)] == []
