"""What a person sees in MLflow's pages: rows and what is below them, scores by setting, a film that plays.

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
ROWS = {"kuka-canvasmar": 0.002, "kuka-no-canvas": 0.004}  # and their learning rates
STAGES = ("train", "sweep", "evaluate")
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
            if found := re.fullmatch(r"([\w -]+): +(http\S+)\n", line):
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


def close_assistant(page: Any) -> None:
    """Close the panel beside the table that MLflow opens for a new person."""
    page.locator(".ag-row").first.wait_for()
    close = page.locator("[data-component-id='mlflow.assistant.chat_panel.close']")
    if close.count():
        close.click()


def open_table(page: Any, links: dict[str, str], row: str) -> None:
    """The table of runs, with a row opened down to the trials of its search."""
    page.goto(links["runs"])
    close_assistant(page)
    opened = page.locator(".ag-row", has=page.get_by_role("link", name=row, exact=True)).first
    opened.get_by_role("button").click()
    search = page.locator(".ag-row", has=page.get_by_role("link", name="sweep@")).first
    search.get_by_role("button").click()
    page.get_by_role("link", name="0: ").first.wait_for()


def open_search(page: Any, link: str) -> Any:
    """The charts of a search; the titles of their horizontal axes."""
    page.goto(link)
    titles = page.locator("text.xtitle")
    titles.first.wait_for(state="attached")
    return titles


def pictures(root: Path, folder: Path) -> None:
    """Takes mlflow-runs.png and mlflow-compare.png of the runs of a project."""
    with served(root) as links, browser() as page:
        row = next(name.removeprefix("search of ") for name in links if name.startswith("search of "))
        open_table(page, links, row)
        time.sleep(2)
        page.screenshot(path=folder / "mlflow-runs.png")
        open_search(page, links[f"search of {row}"])
        time.sleep(2)
        page.screenshot(path=folder / "mlflow-compare.png")


def fill(root: Path) -> None:
    torch.manual_seed(0)
    video.write(root / "00.mp4", torch.randint(0, 255, (24, 3, 64, 64), dtype=torch.uint8), 8)
    for row, rate in ROWS.items():
        settings = {"recipe.learning_rate": rate, "model.width": 128}
        for stage in STAGES:
            tags = {"stage": stage, "row": row} | ({"params": row} if stage == "train" else {"input.model": row})
            with tracking.run(f"{stage}@{row}", root=root, tags=tags, parameters=settings, row=settings) as log:
                if stage == "train":
                    log.tags({"output": row})
                elif stage == "sweep":
                    search(log)
                else:
                    log.scores({"fvd": 1000 * rate, "psnr": 15.5})
                    log.artifact(root / "00.mp4", "videos")


def search(log: tracking.Run) -> None:
    for number, setting in enumerate(SPACE):
        with log.handle.child(trial_name(number, setting), setting, {"part": "trial"}) as trial:
            trial.metrics({"fvd": 900.0 - 10 * number, "milliseconds_per_frame": 3.0 * setting["sets"]})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with runs as stages leave them: of two rows, a training, a search of four trials, and a film."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on the path")
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        fill(root)
        yield root


def test_rows_what_is_below_them_their_scores_by_setting_and_a_film_are_there_for_a_person(project: Path) -> None:
    row = next(iter(ROWS))
    where = tracking.uri(project)
    scores = tracking.connect(where).search_runs(["1"], "tags.stage = 'evaluate'")
    (scored,) = (run for run in scores if run.data.tags["row"] == row)
    asked: list[str] = []
    with served(project) as links, browser() as page:
        page.on("request", lambda request: asked.append(request.url))
        open_table(page, links, row)
        names = page.locator(".ag-row a[href*='/runs/']")
        told = {one.inner_text() for one in names.all()}
        trials = {trial_name(number, setting) for number, setting in enumerate(SPACE)}
        assert told == {*ROWS, *(f"{stage}@{row}" for stage in STAGES), *trials}
        seen = [one.evaluate(SEEN) for one in names.all()]
        assert len(set(seen)) == len(told) == len(seen)
        assert all(len(part) > 5 for part in seen)
        assert {"fvd", "psnr"} <= set(page.locator(".ag-header-cell").all_inner_texts())  # columns without a click

        page.goto(links["settings by FVD"])
        page.locator(".ag-row").nth(1).wait_for()
        found = page.locator(".ag-row a[href*='/runs/']").all_inner_texts()  # not in the order that a person sees
        assert sorted(found) == sorted(f"evaluate@{run.data.tags['row']}" for run in scores)

        assert {"recipe.learning_rate"} <= set(open_search(page, links["FVD by setting"]).all_text_contents())
        titles = open_search(page, links[f"search of {row}"])
        page.locator("text.xtitle", has_text="sets").wait_for(state="attached")
        assert {"canvas_scale", "sets"} <= set(titles.all_text_contents())
        assert page.get_by_role("link", name="Model registry").is_visible()  # the pages for models, not for prompts

        base = links["runs"].partition("?")[0]
        page.goto(f"{base}/{scored.info.run_id}/artifacts/videos/00.mp4")
        page.locator("video").wait_for()
        play = "film => { film.muted = true; film.play(); }"
        page.locator("video").evaluate(play)
        page.wait_for_function("document.querySelector('video').currentTime > 1")
        assert page.locator("video").evaluate("film => [film.videoWidth, film.error]") == [64, None]
    at_home = ("data:", "blob:", base.partition("/#")[0])
    assert [url for url in asked if not url.startswith(at_home)] == []
