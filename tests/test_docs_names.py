"""What the reference lists is what the code has: no name too few, and none too many."""

import re
from pathlib import Path
from typing import Any

import pytest

from resilient import events, telemetry
from resilient._cli import main as command_line
from resilient.telemetry import _events, _instruments, _names

from examples import metastable

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"


class Recorder:
    """Stands for a meter, and writes down the names of the instruments that are made."""

    def __init__(self) -> None:
        self.made: set[str] = set()

    def __getattr__(self, method: str) -> Any:
        def make(name: str, *args: object, **kwargs: object) -> None:
            self.made.add(name)

        return make


def page(name: str) -> str:
    return (REFERENCE / f"{name}.md").read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def first_column(text: str) -> set[str]:
    return set(re.findall(r"^\| `([a-z_.]+)[^`|]*` \|", text, re.MULTILINE))


def attributes() -> set[str]:
    return {value for name, value in vars(_names).items() if name.isupper() and name != "FAILED"}


def test_every_attribute_is_in_its_table() -> None:
    """The table of attributes holds each of the names, once."""
    assert first_column(section(page("telemetry"), "Attributes")) == attributes()


def test_every_metric_is_in_its_table() -> None:
    """The table of metrics holds each instrument of the meter."""
    recorder: Any = Recorder()
    _instruments.Instruments(recorder)
    assert first_column(section(page("telemetry"), "Metrics")) == recorder.made


def test_every_span_event_is_in_its_table() -> None:
    """The table of span events holds what is told of events, and the overtaken attempt."""
    told = {name for name, _ in _events._SPAN_EVENTS.values()} | {"resilient.hedge.superseded"}
    assert first_column(section(page("telemetry"), "Span events")) == told
    documented = set(re.findall(r"`(resilient\.[a-z_.]+)`", telemetry.__doc__ or ""))
    assert told <= documented


def test_no_name_on_the_page_is_unknown() -> None:
    """What looks like a name of telemetry is one."""
    recorder: Any = Recorder()
    _instruments.Instruments(recorder)
    told = {name for name, _ in _events._SPAN_EVENTS.values()} | {"resilient.hedge.superseded"}
    known = attributes() | recorder.made | told | {"resilient.call", "resilient.attempt"}
    pages = [page("telemetry"), *(p.read_text("utf-8") for p in REFERENCE.parent.glob("expl*/tr*"))]
    used = {name for text in pages for name in re.findall(r"`(resilient\.[a-z_.]+)[ `]", text)}
    assert used - {"resilient.events", "resilient.telemetry"} <= known


def test_every_event_is_in_its_table() -> None:
    """The table of events holds each class with its fields."""
    rows = dict(re.findall(r"^\| `([A-Z]\w+)` \| ([^|]*)\|", page("events"), re.MULTILINE))
    classes = {name: getattr(events, name) for name in events.__all__ if name != "Event"}
    assert set(rows) == set(classes)
    common = {"policy", "kind", "function"}
    for name, cls in classes.items():
        assert set(re.findall(r"`(\w+)`", rows[name])) == set(cls.__slots__) - common, name


@pytest.mark.parametrize("option", command_line.cli.commands["demo"].params, ids=str)
def test_every_option_of_the_demo_is_in_its_table(option: Any) -> None:
    """The table of options has each one, with its default."""
    # The first table is the demo's own; its subcommands have theirs further down.
    row, *_ = re.findall(rf"^\| `{option.opts[0]}` .*$", page("command-line"), re.MULTILINE)
    assert f"| {option.default:g}" in row


def test_the_table_of_the_simulation_is_what_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """The page on load shows the program's own output."""
    metastable.main()
    text = (REFERENCE.parent / "explanation" / "retries-and-load.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out in text
