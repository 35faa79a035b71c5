"""Chaos from outside the program: the environment variable `RESILIENT_CHAOS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from resilient.chaos._experiments import Experiment
from resilient.chaos._where import Where

VARIABLE: Final = "RESILIENT_CHAOS"

_OFF: Final = frozenset({"", "0", "off", "false", "no"})
_ON: Final = frozenset({"1", "on", "true", "yes"})
_WHERE: Final = ("injector", "key", "member", "pool", "function")
_KNOWN: Final = ("name", "seed", "until", *_WHERE)


def read(environment: Mapping[str, str]) -> Experiment | None:
    """Begin the experiment that the environment asks for, if it does.

    Raises:
        ValueError: The variable cannot be understood.
    """
    text = environment.get(VARIABLE, "").strip()
    if text.lower() in _OFF:
        return None
    given = {} if text.lower() in _ON else _pairs(text)
    where: dict[str, Any] = {name: given[name] for name in _WHERE if name in given}
    experiment = Experiment(
        given.get("name") or VARIABLE,
        _seed(given.get("seed", "0")),
        Where(**where) if where else None,
        _until(given.get("until")),
        "process",
    )
    experiment.begin()
    return experiment


def _pairs(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (one.strip() for one in part.partition("="))
        if name not in _KNOWN or not equals or not value:
            raise ValueError(
                f"{VARIABLE} is {text!r}, where {part.strip()!r} is not understood: it is 1, or "
                f"name=value pairs with commas between them, of {', '.join(_KNOWN)}"
            )
        if name in found:
            raise ValueError(f"{VARIABLE} is {text!r}, which says {name} twice")
        found[name] = value
    return found


def _seed(text: str) -> int | str:
    # As in a program, where a whole number is one.
    return int(text) if text.removeprefix("-").isdecimal() and text.isascii() else text


def _until(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{VARIABLE}: until must be seconds, not {text!r}") from None
