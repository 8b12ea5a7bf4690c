"""The page in a browser: its pictures load, it says nothing on the console, and it fits a phone."""

import html
import json
import re
import shutil
import subprocess

import pytest

from tests.components.reporting.test_page import ROWS, render, sources

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
# a page around ours, as wide as a phone or a desk, that says what it finds there
HOST = """<!doctype html><iframe src="index.html" style="width:{width}px;height:844px;border:0"></iframe><script>
const frame = document.querySelector("iframe");
frame.onload = () => {{  // every picture has come, or failed, by then
  const page = frame.contentDocument, root = page.documentElement;
  page.querySelectorAll("details").forEach(one => one.open = true);
  const images = [...page.images].map(image => image.naturalWidth);
  const wide = [...page.querySelectorAll("body *")].filter(one => !one.closest(".scroll,.reel,nav,pre")
    && one.getBoundingClientRect().right > {width} + 1).map(one => one.tagName);
  const found = {{images, width: root.clientWidth, scroll: root.scrollWidth, wide, title: page.title}};
  document.body.dataset.found = JSON.stringify(found);
}};
</script>"""


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no headless browser on the path: none of {', '.join(BROWSERS)}")
    return found


def look(browser, folder, profile, width):
    """What a browser of this width finds on the page, and what it writes to the console."""
    (folder / "host.html").write_text(HOST.format(width=width), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"]
    options += [
        "--hide-scrollbars",
        "--allow-file-access-from-files",
        f"--user-data-dir={profile}",
        "--window-size=1400,1000",
    ]
    done = subprocess.run(
        [browser, *options, "--dump-dom", f"file://{folder}/host.html"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found[1])), console


@pytest.mark.parametrize("width", [390, 1280])
def test_pictures_load_the_console_is_silent_and_nothing_is_wider_than_the_window(finished, tmp_path, browser, width):
    text = render(sources(finished), tmp_path / "out")
    found, console = look(browser, tmp_path / "out", tmp_path / "profile", width)
    assert found["title"] == "A run & its <scores>"
    assert len(found["images"]) == text.count("<img") > 10 * len(ROWS)
    assert min(found["images"]) > 0
    assert console == []
    assert (found["width"], found["scroll"], found["wide"]) == (width, width, [])


def test_a_page_that_is_too_wide_lacks_a_picture_or_complains_is_found_out(tmp_path, browser):
    page = '<!doctype html><meta charset="utf-8"><title>x</title><img src="no.png"><div style="width:500px">wide</div>'
    page += '<script>console.error("broken")</script>'
    (tmp_path / "index.html").write_text(page, encoding="utf-8")
    found, console = look(browser, tmp_path, tmp_path / "profile", 390)
    assert found["images"] == [0]
    assert found["scroll"] > 390
    assert found["wide"] == ["DIV"]
    assert any("broken" in line for line in console)
