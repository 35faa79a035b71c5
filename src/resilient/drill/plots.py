"""Plots as SVG text: lines over time, bars, and the states of breakers and members."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

Values = Sequence[float | None]

WIDTH: Final = 860.0
_LEFT: Final = 64.0
_RIGHT: Final = 14.0
_TOP: Final = 12.0
_COLOURS: Final = 8
_POINTS: Final = 200
_LANE: Final = 24.0
_LABELS: Final = 210.0

# Both palettes; colours that differ in lightness too, for those who do not tell hues apart.
STYLE: Final = """\
.plot text { font: 12px system-ui, sans-serif; fill: var(--ink) }
.plot .end { text-anchor: end } .plot .mid { text-anchor: middle }
.plot .grid { stroke: var(--grid) } .plot .band { fill: var(--band) }
.plot .line { fill: none; stroke-width: 1.6; stroke-linejoin: round }
.c0 { stroke: var(--c0); --c: var(--c0) } .c1 { stroke: var(--c1); --c: var(--c1) }
.c2 { stroke: var(--c2); --c: var(--c2) } .c3 { stroke: var(--c3); --c: var(--c3) }
.c4 { stroke: var(--c4); --c: var(--c4) } .c5 { stroke: var(--c5); --c: var(--c5) }
.c6 { stroke: var(--c6); --c: var(--c6) } .c7 { stroke: var(--c7); --c: var(--c7) }
.plot .bar { fill: var(--c); stroke: none }
.plot .mark { stroke: var(--ink); stroke-width: 2 }
.plot .good { fill: var(--good) } .plot .bad { fill: var(--bad) }
.plot .warn { fill: var(--warn) } .plot .idle { fill: var(--idle) }
.plot .info { fill: var(--info) }"""
LIGHT: Final = """\
--page: #ffffff; --ink: #1f2328; --soft: #57606a; --grid: #dfe3e8; --band: #f4c7c326;
--edge: #d0d7de; --good: #b7e3c3; --bad: #f2a59d; --warn: #f5d48a; --idle: #d5d9df;
--info: #bcd6f7; --c0: #0b62c4; --c1: #c2410c; --c2: #1a7f37; --c3: #8250df;
--c4: #b35900; --c5: #0f7c85; --c6: #bf3989; --c7: #57606a; color-scheme: light;"""
DARK: Final = """\
--page: #14181f; --ink: #e6edf3; --soft: #9da7b3; --grid: #2d333d; --band: #f8514926;
--edge: #3d444d; --good: #1f5a33; --bad: #8a2f2a; --warn: #6b5100; --idle: #3a414b;
--info: #1d4478; --c0: #6cb0ff; --c1: #ff9566; --c2: #56d364; --c3: #c297ff;
--c4: #e3b341; --c5: #4fd1d9; --c6: #f778ba; --c7: #9da7b3; color-scheme: dark;"""
THEME: Final = f":root {{ {LIGHT} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {DARK} }} }}"


def number(value: float) -> str:
    """A coordinate, short and without an exponent."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _text(x: float, y: float, words: str, classes: str = "") -> str:
    return f'<text x="{number(x)}" y="{number(y)}" class="{classes}">{escape(words)}</text>'


def _svg(height: float, title: str, parts: Iterable[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" role="img" '
        f'viewBox="0 0 {number(WIDTH)} {number(height)}" width="{number(WIDTH)}" '
        f'height="{number(height)}">'
    )
    return "\n".join([head, f"<title>{escape(title)}</title>", *parts, "</svg>"])


def standalone(svg: str) -> str:
    """A plot as a file of its own, with its style and its background."""
    style = f"<style>{THEME}\n{STYLE}\n.page {{ fill: var(--page); stroke: var(--edge) }}</style>"
    page = '<rect class="page" x=".5" y=".5" width="99.9%" height="99.5%" rx="8"/>'
    return svg.replace("</title>", f"</title>\n{style}\n{page}", 1) + "\n"


@dataclass
class Lines:
    """Lines over `seconds` of time; `bands` are when something was broken."""

    title: str
    seconds: float
    lines: dict[str, Values]
    unit: str = "/s"
    log: bool = False
    bands: Sequence[tuple[float, float]] = ()
    height: float = 190.0

    def svg(self) -> str:
        """The plot, with its legend."""
        self.lines = {name: _thinned(values, self.log) for name, values in self.lines.items()}
        return _svg(self.height + 46, self.title, self._parts())

    def _parts(self) -> Iterator[str]:
        ticks = self._ticks()
        low, high = ticks[0], ticks[-1]
        yield _text(_LEFT, _TOP + 6, self.title, "")
        yield from _legend(self.lines, _LEFT + 8 + 6.6 * len(self.title), _TOP + 6)
        yield from _bands(self.bands, self._x, _TOP + 16, self.height)
        for tick in ticks:
            y = self._y(tick, low, high)
            yield f'<path class="grid" d="M{number(_LEFT)} {number(y)}H{number(WIDTH - _RIGHT)}"/>'
            yield _text(_LEFT - 6, y + 4, f"{spell(tick)}{self.unit}", "end")
        yield from _time_axis(self.seconds, self._x, _TOP + 16, _TOP + 16 + self.height)
        for index, values in enumerate(self.lines.values()):
            path = self._path(values, low, high)
            if path:
                yield f'<path class="line c{index % _COLOURS}" d="{path}"/>'

    def _x(self, at: float) -> float:
        return _LEFT + at / self.seconds * (WIDTH - _LEFT - _RIGHT)

    def _y(self, value: float, low: float, high: float) -> float:
        if self.log:
            part = math.log(max(value, low) / low) / math.log(high / low)
        else:
            part = value / high
        return _TOP + 16 + self.height * (1 - part)

    def _ticks(self) -> list[float]:
        found = [value for values in self.lines.values() for value in values if value is not None]
        most = max(found, default=1.0) or 1.0
        if not self.log:
            step = nice(most / 4)
            return [step * index for index in range(math.ceil(most / step - 1e-9) + 1)]
        least = min((value for value in found if value > 0), default=0.001)
        first, last = math.floor(math.log10(least)), math.ceil(math.log10(most) + 1e-9)
        return [10.0**power for power in range(first, max(last, first + 1) + 1)]

    def _path(self, values: Values, low: float, high: float) -> str:
        width = self.seconds / max(1, len(values))
        path, pen = [], "M"
        for index, value in enumerate(values):
            if value is None:
                pen = "M"
                continue
            x, y = self._x((index + 0.5) * width), self._y(value, low, high)
            path.append(f"{pen}{number(x)} {number(y)}")
            pen = "L"
        return "".join(path)


@dataclass
class Bars:
    """One bar for each label; `marks` are what was published."""

    title: str
    bars: dict[str, float]
    words: dict[str, str]
    marks: dict[str, float] = field(default_factory=dict)
    log: bool = False

    def svg(self) -> str:
        """The plot."""
        return _svg(34 + 30 * len(self.bars), self.title, self._parts())

    def _parts(self) -> Iterator[str]:
        yield _text(14, _TOP + 8, self.title)
        everything = [*self.bars.values(), *self.marks.values()]
        most = max(everything)
        least = min(value for value in everything if value > 0) / 3 if self.log else 0.0
        for index, (name, value) in enumerate(self.bars.items()):
            y = 30.0 + 30 * index
            wide = self._wide(value, least, most)
            yield _text(150, y + 16, name, "end")
            yield (
                f'<rect class="bar c{index % _COLOURS}" x="160" y="{number(y)}" '
                f'width="{number(wide)}" height="22" rx="3"/>'
            )
            if name in self.marks:
                at = 160 + self._wide(self.marks[name], least, most)
                yield f'<path class="mark" d="M{number(at)} {number(y - 2)}v26"/>'
                wide = max(wide, at - 160)
            yield _text(168 + wide, y + 16, self.words[name])

    def _wide(self, value: float, least: float, most: float) -> float:
        if self.log:
            return max(2.0, 430 * math.log(max(value, least) / least) / math.log(most / least))
        return max(2.0, 430 * value / most)


@dataclass
class States:
    """A row for each breaker and member: in which state it was when."""

    title: str
    seconds: float
    lanes: dict[str, Sequence[tuple[float, str]]]
    bands: Sequence[tuple[float, float]] = ()

    def svg(self) -> str:
        """The plot."""
        return _svg(_TOP + 44 + _LANE * len(self.lanes), self.title, self._parts())

    def _parts(self) -> Iterator[str]:
        top, tall = _TOP + 16, _LANE * len(self.lanes)
        yield _text(14, _TOP + 6, self.title)
        yield from _bands(self.bands, self._x, top, tall)
        yield from _time_axis(self.seconds, self._x, top, top + tall)
        for row, (name, changes) in enumerate(self.lanes.items()):
            y = top + row * _LANE
            yield _text(_LABELS - 8, y + 16, name if len(name) < 32 else f"…{name[-30:]}", "end")
            ends = [at for at, _ in changes[1:]] + [self.seconds]
            for (at, state), end in zip(changes, ends, strict=True):
                yield from self._bar(at, min(end, self.seconds), y, state)

    def _bar(self, at: float, end: float, y: float, state: str) -> Iterator[str]:
        x, wide = self._x(at), max(1.5, self._x(end) - self._x(at))
        yield (
            f'<rect class="{tone(state)}" x="{number(x)}" y="{number(y + 3)}" '
            f'width="{number(wide)}" height="{number(_LANE - 6)}">'
            f"<title>{escape(state)}, {at:.1f} to {end:.1f} s</title></rect>"
        )
        if wide > 6.6 * len(state) + 6:
            yield _text(x + 4, y + 16, state)

    def _x(self, at: float) -> float:
        return _LABELS + at / self.seconds * (WIDTH - _LABELS - _RIGHT)


def _thinned(values: Values, peaks: bool) -> Values:
    """As many points as can be told apart: the mean of some, or the highest of them."""
    size = max(1, len(values) // _POINTS)
    thin: list[float | None] = []
    for first in range(0, len(values), size):
        known = [one for one in values[first : first + size] if one is not None]
        if known:
            thin.append(max(known) if peaks else sum(known) / len(known))
        else:
            thin.append(None)
    return thin


def _legend(names: Iterable[str], x: float, y: float) -> Iterator[str]:
    x = max(x, 190.0)
    for index, name in enumerate(names):
        if x > WIDTH - 90:
            yield _text(x, y, "…")
            return
        yield (
            f'<path class="line c{index % _COLOURS}" style="stroke-width:3" '
            f'd="M{number(x)} {number(y - 4)}h16"/>'
        )
        yield _text(x + 21, y, name)
        x += 38 + 6.6 * len(name)


def _bands(
    bands: Sequence[tuple[float, float]], x_of: Callable[[float], float], y: float, tall: float
) -> Iterator[str]:
    for start, end in bands:
        x = x_of(start)
        yield (
            f'<rect class="band" x="{number(x)}" y="{number(y)}" '
            f'width="{number(max(1.0, x_of(end) - x))}" height="{number(tall)}"/>'
        )


def _time_axis(
    seconds: float, x_of: Callable[[float], float], top: float, bottom: float
) -> Iterator[str]:
    step = nice(seconds / 8)
    for index in range(math.floor(seconds / step + 1e-9) + 1):
        x = x_of(index * step)
        yield f'<path class="grid" d="M{number(x)} {number(top)}V{number(bottom)}"/>'
        yield _text(x, bottom + 15, f"{spell(index * step)} s", "mid")


_TONES: Final = {
    "closed": "good",
    "healthy": "good",
    "open": "bad",
    "down": "bad",
    "isolated": "bad",
    "half_open": "warn",
    "trial": "warn",
    "draining": "warn",
    "standby": "idle",
    "nobody": "idle",
}


def tone(state: str) -> str:
    """The colour that a state is drawn in."""
    return _TONES.get(state, "info")


def nice(step: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50 and so on, up or down."""
    if step <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * one for one in (1, 2, 5, 10) if power * one >= step * (1 - 1e-9))


def spell(value: float) -> str:
    """A number on an axis."""
    if value and abs(value) < 0.001:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:,.10g}" if value < 10_000 else f"{value / 1000:,.10g}k"
