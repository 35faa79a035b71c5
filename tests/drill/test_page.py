"""The page: it stands alone, and a real browser shows it, in light and in dark."""

import json
import os
import re
import shutil
import struct
import subprocess
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from resilient import Timeout
from resilient.drill import Backend, Outage, Report, Scenario, Study, run
from resilient.drill.html import page
from resilient.drill.plots import Bars, Lines, nice, spell, standalone
from resilient.failover import ActivePassive

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
VOID = {"meta"}


def drilled(runs: int = 1) -> Report:
    def one() -> Scenario:
        pool = ActivePassive("db <&>", {"a": 1, "b": 2}, on=ConnectionError, failback_after=1)
        return Scenario(
            load=20,
            seconds=60,
            backends=[Backend("a", latency=0.02, capacity=2), Backend("b", latency=0.03)],
            policy=pool,
            faults=[Outage("a", at=20, seconds=10)],
            objectives=["availability >= 0.9", "p99 <= 1 ms"],
        )

    names = [f"run <{number}>" for number in range(runs)]
    return run(Study("page <script>", dict.fromkeys(names, one), title="a & b"))


@pytest.fixture(scope="module")
def report() -> Report:
    return drilled(2)


class Checked(HTMLParser):
    """Raises when what is opened is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)


def test_the_page_is_whole_and_needs_nothing_else(report: Report) -> None:
    text = page(report.as_dict())
    checked = Checked()
    checked.feed(text)
    assert checked.open == []
    assert {"svg", "table", "details"} <= checked.seen
    assert "script" not in checked.seen
    assert not re.search(r"(?:src|href)=|@import|url\(", text)
    assert "prefers-color-scheme: dark" in text
    assert "page &lt;script&gt;" in text


def test_the_page_says_what_the_json_says(report: Report) -> None:
    text = page(json.loads(report.as_json()))
    assert text == page(report.as_dict())
    assert text.count("availability &gt;= 0.9") == 2
    assert "missed" in text
    assert "failed" in text
    for lane in ("active", "primary"):
        assert ("db &lt;&amp;&gt;: " + lane in text) == (lane == "active")


def test_one_run_has_no_plot_of_all() -> None:
    assert "Side by side" not in page(drilled().as_dict())


def test_a_run_in_which_nothing_happened() -> None:
    quiet = Scenario(load=5, seconds=5, backends=[Backend("a")], policy=Timeout(1))
    text = page(run(quiet).as_dict())
    assert "Objectives" not in text
    assert "<details>" not in text
    assert "failover_time" not in text


def test_runs_of_different_lengths_are_not_drawn_over_each_other(report: Report) -> None:
    other = json.loads(report.as_json())
    next(iter(other["runs"].values()))["seconds"] = 61.0
    assert "<svg" not in page(other).split("Side by side")[0] or "Side by side" not in page(other)


def test_an_interrupted_run_is_marked(report: Report) -> None:
    other = json.loads(report.as_json())
    other["interrupted"] = True
    assert "stopped before its end" in page(other)


def test_more_states_than_can_be_drawn_are_left_to_the_json(report: Report) -> None:
    other = json.loads(report.as_json())
    next(iter(other["runs"].values()))["states"] = {
        f"breaker of a rather long name {number}": [[0.0, "closed"], [1.0, "open"]]
        for number in range(40)
    }
    assert "and 16 more breakers and members" in page(other)


def test_lines_leave_gaps_where_nothing_is_known() -> None:
    svg = Lines("p99", 10, {"a": [1.0, None, None, 2.0, 3.0]}, " s", log=True).svg()
    assert svg.count("M") > 2
    path = re.findall(r'class="line c0" d="([^"]+)"', svg)[-1]
    assert path.count("M") == 2
    assert Lines("nothing", 10, {"a": [None, None]}, log=True).svg()
    assert Lines("zeros", 10, {"a": [0.0, 0.0]}).svg()


def test_a_long_legend_is_cut() -> None:
    names = {f"a backend of a long name {number}": [1.0] for number in range(8)}
    assert "…" in Lines("requests", 10, names).svg()


def test_bars_and_marks() -> None:
    bars = Bars("requests", {"a": 1.0, "b": 64.0}, {"a": "1x", "b": "64x"}, {"b": 60.0}, log=True)
    picture = standalone(bars.svg())
    assert picture.count('class="mark"') == 1
    assert "prefers-color-scheme" in picture
    assert Bars("requests", {"a": 1.0}, {"a": "1x"}).svg()


def test_numbers_on_axes() -> None:
    assert [nice(step) for step in (0.3, 1, 1.1, 30, 60, 0)] == [0.5, 1, 2, 50, 100, 1]
    assert [spell(value) for value in (0, 0.0001, 0.5, 12_000)] == ["0", "1e-4", "0.5", "12k"]


# In a browser.

needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium is installed here: the page is not opened in a browser"
)


def browse(path: Path, *options: str) -> str:
    """Open the page in a real browser without a window; return the page as it is then."""
    assert BROWSER is not None
    result = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
         f"--user-data-dir={path.parent / 'profile'}", "--window-size=960,1400", *options,
         path.as_uri()],
        capture_output=True, text=True, timeout=100, check=True,
        env={**os.environ, "HOME": str(path.parent)},
    )  # fmt: skip
    complaints = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    assert not complaints, complaints
    return result.stdout


@needs_browser
def test_a_browser_shows_the_page(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(page(report.as_dict()), encoding="utf-8")
    dom = browse(path, "--dump-dom")
    assert dom.count("<svg") == page(report.as_dict()).count("<svg")
    assert "</html>" in dom


@needs_browser
@pytest.mark.parametrize(("scheme", "dark"), [("1", False), ("0", True)], ids=["light", "dark"])
def test_the_page_can_be_read_in_light_and_in_dark(
    scheme: str, dark: bool, report: Report, tmp_path: Path
) -> None:
    path, shot = tmp_path / "page.html", tmp_path / "shot.png"
    path.write_text(page(report.as_dict()), encoding="utf-8")
    browse(path, f"--screenshot={shot}", f"--blink-settings=preferredColorScheme={scheme}")
    rows = pixels(shot)
    background = sum(rows[2][:3])
    assert (background < 200) == dark
    # Ink on the page: words, and lines of plots, in colours that differ from it.
    far = sum(abs(row[at] - rows[2][at % 3]) > 90 for row in rows for at in range(0, len(row), 9))
    assert far > 500


def pixels(shot: Path) -> list[bytes]:
    """The rows of a PNG of 8 bits, three bytes a pixel."""
    data, at, packed, width, channels = shot.read_bytes(), 8, b"", 0, 3
    while at < len(data):
        (size,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            width, channels = struct.unpack(">I", body[:4])[0], 4 if body[9] == 6 else 3
        elif kind == b"IDAT":
            packed += body
        at += size + 12
    return [_rgb(row, channels) for row in _unfiltered(zlib.decompress(packed), width, channels)]


def _rgb(row: bytes, channels: int) -> bytes:
    if channels == 3:
        return row
    return bytes(value for index, value in enumerate(row) if index % 4 != 3)


def _unfiltered(raw: bytes, width: int, channels: int) -> list[bytes]:
    """Undo the five filters of PNG."""
    size, rows = width * channels, []
    above = bytearray(size)
    for start in range(0, len(raw), size + 1):
        how, row = raw[start], bytearray(raw[start + 1 : start + 1 + size])
        for index in range(size):
            left = row[index - channels] if index >= channels else 0
            corner = above[index - channels] if index >= channels else 0
            row[index] = (row[index] + _guess(how, left, above[index], corner)) & 255
        rows.append(bytes(row))
        above = row
    return rows


def _guess(how: int, left: int, up: int, corner: int) -> int:
    if how == 4:
        straight = left + up - corner
        return min((left, up, corner), key=lambda one: abs(straight - one))
    return (0, left, up, (left + up) // 2)[how]
