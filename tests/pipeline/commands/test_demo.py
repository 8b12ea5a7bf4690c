"""The command `demo`: the callbacks of its page, and the page in a browser."""

import shutil
import signal
import subprocess
import urllib.request

import pytest
import torch

from components.models.conditions.interface import ActionScale
from pipeline.commands import demo
from pipeline.commands.prediction.live import InputVideo, LivePrediction, fitting_actions
from pipeline.commands.video_predictor import VideoPredictor
from tests.pipeline.conftest import CANVASMAR, ROOT, environment, exposed, free_port
from tests.pipeline.runtime.test_clusters import wait_for
from tests.pipeline.untrained import build

NAMED = {
    "temporal_scale": 1.2, "canvas_scale": 1.5, "sets": 3, "temperature": 6.5, "frame_noise": 0.3, "canvas_noise": 0.2
}  # fmt: skip
SETTINGS = tuple(NAMED.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("untrained"))


@pytest.fixture(scope="module")
def backend(folder):
    return demo.Backend(folder, {row: VideoPredictor.open(folder, row, "cpu") for row in demo.rows.trained(folder)})


def test_an_upload_is_read_and_removed_whatever_it_is(backend, folder, tmp_path, monkeypatch):
    good, bad, large = (tmp_path / f"{name}.mp4" for name in ("good", "bad", "large"))
    shutil.copy(folder / "videos" / "one.mp4", good)
    bad.write_text("no video")
    large.write_bytes(b"\0" * 3000)
    chosen, _, status = backend.load_upload(str(good))
    assert (chosen.context.shape, len(chosen.truth)) == ((5, 3, 32, 32), 0)
    assert "context: the last 5 frames, 1.88 to 2.38 s. Press Predict." in status
    assert "bad.mp4 is not a video" in backend.load_upload(str(bad))[2]
    monkeypatch.setattr(demo, "MAX_BYTES", 2000)
    assert "large.mp4 is larger" in backend.load_upload(str(large))[2]
    assert list(tmp_path.iterdir()) == []


def test_two_runs_are_filled_in_side_by_side_and_wrong_settings_are_reported(backend):
    assert backend.default_row() == "kuka-canvasmar"
    chosen = InputVideo("x", *torch.zeros(20, 3, 32, 32, dtype=torch.uint8).split([1, 19]))
    shown = list(backend.predict(chosen, "kuka-canvasmar", "kuka-no-canvas", 4, 0, *SETTINGS))
    assert len(shown) == 2 * 4  # two latent frames, before their first set and after each of three
    assert all(picture.startswith("<img") for _, *both in shown for picture in both)
    assert "first canvas after" in shown[0][0]
    assert "first frame" not in shown[0][0]
    assert shown[-1][0].count("ms per frame") == 2
    assert [both[1] for _, *both in backend.predict(chosen, "kuka-canvasmar", demo.NONE, 2, 0, *SETTINGS)] == [""] * 4
    ((status, *_),) = backend.predict(chosen, "kuka-canvasmar", demo.NONE, 2, 0, 1.2, 1.5, 99, 6.5, 0.3, 0.2)
    assert "sets is 99" in status
    ((status, *_),) = backend.predict(None, "kuka-canvasmar", demo.NONE, 2, 0, *SETTINGS)
    assert "upload a video first" in status


def test_each_slider_is_the_setting_of_its_name_and_changes_the_film(backend):
    chosen, row = InputVideo("x", *torch.zeros(20, 3, 32, 32, dtype=torch.uint8).split([1, 19])), "kuka-canvasmar"

    def film(named: dict) -> str:
        *_, (_, shown, _) = backend.predict(chosen, row, demo.NONE, 2, 7, *named.values())
        return shown

    usual = film(NAMED)
    others = {"temporal_scale": 3.0, "canvas_scale": 3.0, "sets": 1, "temperature": 0.0}
    for name, value in (others | {"frame_noise": 0.9, "canvas_noise": 0.9}).items():
        prediction = LivePrediction(row, backend.predictors[row], chosen, 2, 7, NAMED | {name: value})
        while prediction.advance():
            pass
        assert film(NAMED | {name: value}) == prediction.picture()
        assert prediction.picture() != usual, name


def test_the_commands_of_a_clip_are_used_if_the_model_takes_them_and_the_last_one_lasts(backend, monkeypatch):
    commands = torch.arange(6.0).reshape(3, 2)
    chosen = InputVideo("x", *torch.zeros(3, 3, 32, 32, dtype=torch.uint8).split([1, 2]), commands)
    predictor = backend.predictors["kuka-canvasmar"]
    assert fitting_actions(predictor, chosen, 4) is None  # trained without actions
    scale = ActionScale(columns=("x", "y"), mean=(0.0, 0.0), std=(1.0, 1.0))
    monkeypatch.setattr(predictor, "description", predictor.description.model_copy(update={"actions": scale}))
    assert fitting_actions(predictor, chosen, 4).tolist() == [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]]
    scale = ActionScale(columns=("x", "y", "z"), mean=(0.0,) * 3, std=(1.0,) * 3)
    monkeypatch.setattr(predictor, "description", predictor.description.model_copy(update={"actions": scale}))
    assert fitting_actions(predictor, chosen, 4) is None


def test_the_command_serves_the_page_and_says_where_until_it_is_interrupted(folder):
    pytest.importorskip("gradio")
    port = free_port()
    words = (*CANVASMAR, "demo", "--device", "cpu", "--port", str(port))
    paths = environment() | {"PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(words, cwd=folder, env=paths, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert running.stdout.readline() == f"demo: http://127.0.0.1:{port}\n"
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/"), "the page")
        assert exposed(running.pid) == []
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)
    finally:
        running.kill()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return answer.status == 200 and b"gradio" in answer.read().lower()
    except OSError:
        return False


def test_a_person_uploads_a_video_in_a_browser_and_sees_frames(folder, tmp_path):
    gradio, browsers = pytest.importorskip("gradio"), pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium on the path")
    page_of = {root: demo.build(root, "cpu") for root in (folder, tmp_path)}
    demo.launch(page_of[folder], 7961, wait=False)
    demo.launch(page_of[tmp_path], 7962, wait=False)
    try:
        assert page_of[folder].local_url == "http://127.0.0.1:7961/"
        labels = [one.label for one in page_of[folder].blocks.values() if isinstance(one, gradio.Slider)]
        assert [label.split(":")[0] for label in labels] == [
            "Frames", "Guidance", "Guidance", "Sets", "Temperature of the order", "r", "r'"
        ]  # fmt: skip
        assert [label for label in labels if "Guidance" in label] == ["Guidance: past", "Guidance: canvas"]
        with browsers.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1300, "height": 1100})
            page.set_default_timeout(90_000)
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            page.goto("http://127.0.0.1:7961")
            page.locator("input[type=file]").set_input_files(str(folder / "videos" / "one.mp4"))
            page.locator("#status", has_text="the last 5 frames").wait_for()
            second = page.get_by_label("Second row, to compare")
            second.fill("kuka-no-canvas")
            second.press("Enter")
            page.locator("#predict").click()
            page.locator("#status", has_text="kuka-no-canvas first frame after").wait_for()
            page.locator("#first img").wait_for()
            assert page.evaluate("document.querySelector('#first img').naturalWidth") > 300
            assert page.locator("#second img").count() == 1
            assert [url for url in asked if not url.startswith(("http://127.0.0.1:7961", "data:", "blob:"))] == []
            page.goto("http://127.0.0.1:7962")
            page.get_by_text("No row is trained yet").wait_for()
            browser.close()
        uploads = gradio.utils.get_upload_folder()
        assert list(demo.Path(uploads).rglob("one.mp4")) == []
    finally:
        for page in page_of.values():
            page.close()
