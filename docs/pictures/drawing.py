"""Pictures as SVG text: timelines, and the boxes and arrows of a state machine.

Each picture brings its own background and both palettes, so that it can be read on a light
and on a dark page, wherever it is shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape

_STYLE = """\
text { font: 14px system-ui, sans-serif; fill: #1f2328 }
.small { font-size: 12.5px } .title { font-weight: 600 } .mid { text-anchor: middle }
.end { text-anchor: end }
.page { fill: #fff; stroke: #d0d7de } .grid { stroke: #d8dee4 }
.line { fill: none; stroke: #57606a; stroke-width: 1.6 } .head { fill: #57606a }
.good { fill: #c3e9cd; stroke: #1a7f37 } .bad { fill: #ffd3ce; stroke: #c0362c }
.cut { fill: #ffe6b8; stroke: #9a6700 } .held { fill: #d5e6ff; stroke: #0969da }
.wait { fill: none; stroke: #6e7781; stroke-dasharray: 4 3 }
.mark { stroke: #8250df; stroke-width: 2 } .said { fill: #6639ba }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .page { fill: #1f2430; stroke: #3d444d } .grid { stroke: #363d49 }
.line { stroke: #9da7b3 } .head { fill: #9da7b3 }
.good { fill: #1c4428; stroke: #3fb950 } .bad { fill: #5a1e1c; stroke: #f85149 }
.cut { fill: #4d3800; stroke: #d29922 } .held { fill: #16325c; stroke: #4493f8 }
.wait { stroke: #9198a1 } .mark { stroke: #ab7df8 } .said { fill: #c297ff }
}"""


def text(x: float, y: float, words: str, classes: str = "") -> str:
    """Return `words` with their baseline at (x, y)."""
    return f'<text x="{x:g}" y="{y:g}" class="{classes}">{escape(words)}</text>'


def page(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """Return a whole picture; `title` is what a screen reader says."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" role="img">'
    )
    card = (
        f'<rect class="page" x=".5" y=".5" width="{width - 1:g}" height="{height - 1:g}" rx="8"/>'
    )
    lines = [head, f"<title>{escape(title)}</title>", f"<style>{_STYLE}</style>", card]
    return "\n".join([*lines, *parts, "</svg>", ""])


@dataclass
class Bar:
    """Something that lasted from `start` to `end`, in seconds; `kind` is its colour."""

    start: float
    end: float
    kind: str
    words: str = ""


@dataclass
class Lane:
    """One row: its label, its bars, and moments with a word to each."""

    label: str
    bars: list[Bar] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)


_LEFT, _ROW, _TOP, _WIDTH = 190.0, 38.0, 22.0, 860.0


def timeline(title: str, lanes: list[Lane], seconds: float, tick: float) -> str:
    """Return `lanes` over `seconds` of time, with a grid line every `tick` seconds."""
    scale = (_WIDTH - _LEFT - 24) / seconds
    bottom = _TOP + len(lanes) * _ROW
    parts = []
    for index in range(round(seconds / tick) + 1):
        x = _LEFT + index * tick * scale
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP:g}V{bottom + 4:g}"/>')
        parts.append(text(round(x, 1), bottom + 20, f"{index * tick:g} s", "small mid"))
    for row, lane in enumerate(lanes):
        parts += _lane(lane, _TOP + row * _ROW, scale)
    return page(_WIDTH, bottom + 34, title, parts)


def _lane(lane: Lane, y: float, scale: float) -> Iterable[str]:
    yield text(_LEFT - 12, y + 23, lane.label, "end")
    for bar in lane.bars:
        x, width = _LEFT + bar.start * scale, max(2.0, (bar.end - bar.start) * scale)
        yield (
            f'<rect class="{bar.kind}" x="{x:.1f}" y="{y + 5:g}" width="{width:.1f}" '
            'height="26" rx="4"/>'
        )
        if bar.words:
            yield text(round(x + width / 2, 1), y + 22.5, bar.words, "small mid")
    for at, words in lane.marks:
        x = _LEFT + at * scale
        yield f'<path class="mark" d="M{x:.1f} {y + 2:g}v32"/>'
        yield text(round(x + 6, 1), y + 22.5, words, "small said")


def box(x: float, y: float, kind: str, name: str, note: str) -> str:
    """Return one state, 190 wide and 58 high, with its name and what a call meets there."""
    rect = f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="190" height="58" rx="10"/>'
    return "\n".join(
        [rect, text(x + 95, y + 25, name, "title mid"), text(x + 95, y + 45, note, "small mid")]
    )


def arrow(path: str, words: Iterable[str], x: float, y: float, classes: str = "mid") -> str:
    """Return an arrow along `path`, with lines of words at (x, y)."""
    said = [text(x, y + 17 * row, line, f"small {classes}") for row, line in enumerate(words)]
    return "\n".join([f'<path class="line" d="{path}" marker-end="url(#head)"/>', *said])


HEAD = (
    '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="9" '
    'markerHeight="9" markerUnits="userSpaceOnUse" orient="auto-start-reverse">'
    '<path class="head" d="M0 0 10 5 0 10z"/></marker></defs>'
)
