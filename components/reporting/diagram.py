"""SVG diagram of the pipeline, from videos to the report; its colours follow the light or dark colour scheme."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Final

JOURNEY: Final = ("videos", "clips", "moments", "latents", "samples", "scores", "report")
VERBS: Final = ("cut", "encode", "standardise", "predict", "measure", "show")
_LINE = 17  # pixels between lines of text
_STYLE: Final = """
.journey{--jink:#1f2733;--jsoft:#5b6675;--jcard:#ffffff;--jedge:#d5dbe3;--jlow:#e6f1f8;--jhigh:#0072b2;--jwarm:#d55e00}
@media (prefers-color-scheme:dark){
.journey{--jink:#e8ecf1;--jsoft:#9aa6b5;--jcard:#1b212a;--jedge:#36404d;--jlow:#1d3342;--jhigh:#56b4e9;--jwarm:#f0883e}}
.journey text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif}
.journey .card{fill:var(--jcard);stroke:var(--jedge);stroke-width:1.5}
.journey .word{fill:var(--jink);font-size:16px;font-weight:650}
.journey .number{fill:var(--jsoft);font-size:12.5px}
.journey .verb{fill:var(--jhigh);font-size:12px;font-style:italic}
.journey .way{stroke:var(--jhigh);stroke-width:2;fill:none}
.journey .head{fill:var(--jhigh)}
.journey .line{stroke:var(--jhigh);stroke-width:2;fill:none}
.journey .low{fill:var(--jlow);stroke:var(--jhigh);stroke-width:1.5}
.journey .high{fill:var(--jhigh)}
.journey .warm{fill:var(--jwarm)}
"""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Size and spacing of the stations in pixels, and the positions of icon and text in a station."""

    size: tuple[int, int]
    step: tuple[int, int]  # offset between successive stations
    icon: tuple[int, int]
    text: tuple[int, int]
    anchor: str


_ROW: Final = _Layout((150, 148), (228, 0), (51, 14), (75, 84), "middle")
_COLUMN: Final = _Layout((320, 84), (0, 122), (22, 18), (96, 32), "start")


def journey_svg(captions: Mapping[str, str], *, upright: bool = False) -> str:
    """Return the diagram of the seven stations in `JOURNEY` as SVG text.

    `captions` maps a station to its caption of at most three lines (two if upright), separated by line feeds. A station
    may lack a caption. `upright` stacks the stations for a narrow page. Raises ValueError for an unknown station.
    """
    unknown = set(captions) - set(JOURNEY)
    if unknown:
        raise ValueError(f"no such station in the diagram: {', '.join(sorted(unknown))}")
    layout = _COLUMN if upright else _ROW
    last = len(JOURNEY) - 1
    width, height = (last * step + size + 8 for step, size in zip(layout.step, layout.size, strict=True))
    stations = "".join(
        f'<g transform="translate({4 + index * layout.step[0]} {4 + index * layout.step[1]})">'
        f"{_station(name, captions.get(name, ''), layout)}{_arrow(VERBS[index], layout) if index < last else ''}</g>"
        for index, name in enumerate(JOURNEY)
    )
    present = [name for name in JOURNEY if name in captions]
    caption = escape("; ".join(f"{name}: {captions[name]}".replace("\n", ", ") for name in present))
    return (
        f'<svg class="journey" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="From videos to the report. {caption}"><style>{_STYLE}</style>{stations}</svg>'
    )


def _station(name: str, caption: str, layout: _Layout) -> str:
    (width, height), (x, y) = layout.size, layout.text
    lines = "".join(
        f'<text class="number" text-anchor="{layout.anchor}" x="{x}" y="{y + 20 + index * _LINE}">{escape(line)}</text>'
        for index, line in enumerate(caption.splitlines()[:3])
    )
    return (
        f'<rect class="card" width="{width}" height="{height}" rx="12"/>'
        f'<g transform="translate({layout.icon[0]} {layout.icon[1]})">{_ICONS[name]()}</g>'
        f'<text class="word" text-anchor="{layout.anchor}" x="{x}" y="{y}">{name}</text>{lines}'
    )


def _arrow(verb: str, layout: _Layout) -> str:
    width, height = layout.size
    if layout.step[0] == 0:
        x = 46
        line = f'<path class="way" d="M{x} {height + 5}v20"/><path class="head" d="M{x - 6} {height + 24}h12l-6 9z"/>'
        return f'{line}<text class="verb" x="96" y="{height + 24}">{verb}</text>'
    y, free = 46, layout.step[0] - width
    head = f'<path class="head" d="M{width + free - 14} {y - 6}v12l9 -6z"/>'
    line = f'<path class="way" d="M{width + 5} {y}h{free - 18}"/>{head}'
    return f'{line}<text class="verb" text-anchor="middle" x="{width + free / 2:g}" y="{y - 12}">{verb}</text>'


# Each icon is drawn in a square of 48 x 48 pixels.


def _videos() -> str:
    holes = "".join(
        f'<rect class="high" x="{x}" y="{y}" width="4" height="4"/>' for x in (4, 40) for y in (11, 19, 27, 35)
    )
    frame = '<rect class="low" x="1" y="6" width="46" height="37" rx="4"/>'
    return f'{frame}{holes}<path class="high" d="M19 15l14 9.5l-14 9.5z"/>'


def _clips() -> str:
    sheets = "".join(
        f'<rect class="low" x="{11 - 5 * k}" y="{4 + 6 * k}" width="32" height="28" rx="3"/>' for k in range(3)
    )
    return f'{sheets}<circle class="warm" cx="13" cy="33" r="5"/>'


def _moments() -> str:
    bell = '<path class="low" d="M2 41C14 41 15 8 24 8S34 41 46 41z"/>'
    return f'{bell}<path class="line" d="M24 8v33M16 26h16" stroke-dasharray="3 3"/>'


def _grid(kind: Callable[[int, int], str]) -> str:
    cells = ((row, column) for row in range(4) for column in range(4))
    return "".join(
        f'<rect class="{kind(row, column)}" x="{3 + 11 * column}" y="{3 + 11 * row}" width="9" height="9" rx="1.5"/>'
        for row, column in cells
    )


def _latents() -> str:
    return _grid(lambda row, column: "low")


def _samples() -> str:
    return _grid(
        lambda row, column: "warm" if (row, column) in {(1, 2), (2, 1)} else "high" if row + column < 4 else "low"
    )


def _scores() -> str:
    bars = "".join(
        f'<rect class="{kind}" x="{5 + 14 * index}" y="{43 - height}" width="10" height="{height}" rx="1.5"/>'
        for index, (kind, height) in enumerate((("high", 34), ("warm", 20), ("low", 12)))
    )
    return f'{bars}<path class="line" d="M1 45h46"/>'


def _report() -> str:
    sheet = '<path class="low" d="M9 3h21l10 10v31a2 2 0 0 1 -2 2H9a2 2 0 0 1 -2 -2V5a2 2 0 0 1 2 -2z"/>'
    return f'{sheet}<path class="line" d="M13 34l7 -8l5 5l9 -12"/><path class="line" d="M13 14h11M13 40h21"/>'


_ICONS: Final[Mapping[str, Callable[[], str]]] = {
    "videos": _videos,
    "clips": _clips,
    "moments": _moments,
    "latents": _latents,
    "samples": _samples,
    "scores": _scores,
    "report": _report,
}
