"""The site of docs/ in a browser as wide as a telephone: no picture is missing, no page is wider than the screen."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browsers = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.faults,  # it takes half a minute
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium"),
    pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="the site needs the extra docs"),
]
PHONE = {"width": 390, "height": 844}
LOOK = """() => ({
  missing: [...document.images].filter(image => image.complete && !image.naturalWidth).map(image => image.src),
  wide: document.documentElement.scrollWidth,
  title: document.title,
})"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; `strict: true` in mkdocs.yml makes a dead link an error."""
    folder = tmp_path_factory.mktemp("site")
    words = (sys.executable, "-m", "mkdocs", "build", "--quiet", "--no-directory-urls", "--site-dir", folder)
    built = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with browsers.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened.new_context(viewport=PHONE).new_page()
        opened.close()


def problems(page: Any, address: str) -> list[str]:
    page.goto(address, wait_until="load")
    seen = page.evaluate(LOOK)
    found = [f"missing: {src}" for src in seen["missing"]]
    found += [f"{seen['wide']} pixels wide"] if seen["wide"] > PHONE["width"] else []
    return found + ([] if seen["title"] else ["no title"])


def test_every_page_has_its_pictures_and_fits_a_telephone(site, page):
    pages = sorted(path for path in site.rglob("*.html") if path.name != "404.html")
    assert len(pages) > 15
    found = {path.relative_to(site).as_posix(): problems(page, path.as_uri()) for path in pages}
    assert {name: these for name, these in found.items() if these} == {}


def test_a_page_that_is_wrong_is_found(page, tmp_path):
    wrong = tmp_path / "wrong.html"
    wrong.write_text('<img src="none.png"><div style="width: 500px">wide</div>', encoding="utf-8")
    missing, wide, title = problems(page, wrong.as_uri())
    assert missing.endswith("none.png")
    assert (wide, title) == ("508 pixels wide", "no title")
