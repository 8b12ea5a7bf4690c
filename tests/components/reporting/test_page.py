import re
import shutil
from html.parser import HTMLParser

import pytest

from components.foundation.errors import InputError
from components.reporting import page

ROWS = ("with-canvas", "no-canvas")


def sources(root):
    return page.Sources(
        evaluations={row: root / row / "evaluation" for row in ROWS},
        trainings={row: root / row / "training" for row in ROWS},
        sweeps=dict.fromkeys(ROWS, root / "sweep"),
        clips={"arm": root / "clips"},
        vaes={"arm-vae": root / "vae"},
    )


def render(given, out, **others):
    texts = {
        "title": "A run & its <scores>",
        "details": {"data": {"size": [64, 64], "nested": {"deep": None}}},
        "usage": [
            {
                "stage": "train",
                "row": "no-canvas",
                "run": "1",
                "commit": "",
                "seconds": 90.0,
                "memory": 512.0,
                "cpu_hours": 0.1,
                "gpu_hours": 0.0,
                "cost": "",
                "machine": "a",
            }
        ],
        "journey": {"videos": "640 mp4"},
        "commands": {"make repro": "makes everything again"},
    }
    page.render(given, **(texts | others), out=out)
    return (out / "index.html").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Tags with their attributes, and the tags left open."""

    def __init__(self):
        super().__init__()
        self.seen, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img", "source", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_holds_everything_and_asks_for_nothing(finished, tmp_path):
    html = render(sources(finished), tmp_path / "out")
    elements = Elements()
    elements.feed(html)
    assert elements.open == []
    addresses = [attrs[key] for _, attrs in elements.seen for key in ("src", "srcset", "href") if key in attrs]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"<script|@import|url\(", html)
    assert all(attrs["alt"] for tag, attrs in elements.seen if tag == "img")
    anchors = {attrs["href"][1:] for tag, attrs in elements.seen if tag == "a"}
    assert anchors == {attrs["id"] for tag, attrs in elements.seen if tag == "section"}
    assert len(anchors) == 8
    assert "A run &amp; its &lt;scores&gt;" in html
    assert "&lt;b&gt;odd&lt;/b&gt;.mp4" in html
    assert "64 clips are few for FVD" in html
    files = {path.name for path in (tmp_path / "out").iterdir()}
    clips = {f"gallery-{row}-{index}.{kind}" for row in ROWS for index in (0, 1) for kind in ("png", "webp")}
    figures = {"index.html", "journey.svg", "plots"}
    figures |= {f"{name}.png" for name in ("loss", "visible", "scores", "drift", "latency", "calibration")}
    figures |= {f"sweep-{row}.png" for row in ROWS} | {"vae-arm-vae-0.png", "vae-arm-vae-1.png"}
    assert files == clips | figures


def test_clips_of_one_name_stand_together_and_equal_input_gives_an_equal_page(finished, tmp_path):
    alone = page.Sources(sources(finished).evaluations, {}, {}, {}, {})
    html = render(alone, tmp_path / "one")
    assert html == render(alone, tmp_path / "two")
    assert html.count("<h3>a.mp4@0</h3>") == 1
    assert html.count("<figcaption>with-canvas · as it comes</figcaption>") == 1
    assert html.count("<figcaption>no-canvas · largest error</figcaption>") == 1
    assert 'id="sweep"' not in html
    assert 'id="vae"' not in html


def test_a_missing_input_is_one_sentence(finished, tmp_path):
    shutil.rmtree(finished / "sweep")
    with pytest.raises(InputError, match=r"trials\.csv does not exist; run `dvc repro`"):
        render(sources(finished), tmp_path / "out")


def test_a_row_may_have_any_name(finished, tmp_path, builders):
    odd = finished / "odd"
    builders["scores"](odd, "a/b ü")
    builders["gallery"](odd)
    render(page.Sources({"a/b ü": odd}, {}, {}, {}, {}), tmp_path / "out")
    assert (tmp_path / "out" / "gallery-a_b_ü-0.png").exists()


def test_the_search_of_every_row_is_shown(finished, tmp_path):
    html = render(sources(finished), tmp_path / "out")
    for row in ROWS:
        assert f"<h3>{row}: chosen among 4 trials</h3>" in html


def test_the_page_holds_the_protocols_card_drift_the_canvas_and_the_papers_tables(finished, tmp_path):
    html = render(sources(finished), tmp_path / "out")
    assert "<dt>context frames</dt><dd>1</dd>" in html
    assert "<td>5–8</td>" in html
    assert "mean square error of the canvas 0.250" in html
    assert "Table 1 of the paper: Kinetics-600" in html
    assert "no-canvas is not comparable: dataset kuka instead of bair" in html


def test_the_page_begins_with_the_verdict_and_says_what_each_stage_took(finished, tmp_path):
    html = render(sources(finished), tmp_path / "out")
    lead = "with-canvas has an FVD of 688 (641 to 735), the lowest of 2 models; next is no-canvas with 860 (641 to 735)"
    assert html.index(lead) < html.index("<nav>")
    assert "clearly better than repeating the last context frame, which scores 1\u202f489" in html
    assert '<td class="n">1 min 30 s</td>' in html
