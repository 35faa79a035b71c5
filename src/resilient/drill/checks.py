"""The checks of a scenario's values: each says in one sentence what to write."""

from __future__ import annotations

import math
from typing import Any

from resilient.drill.errors import ScenarioError


def number(
    value: Any, key: str, *, least: float = 0.0, most: float = math.inf, above: bool = False
) -> float:
    """Return `value` as a finite number from `least` (or `above` it) to `most`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ScenarioError(key, f"must be a number, not {_kind(value)}")
    if not math.isfinite(value):
        raise ScenarioError(key, f"must be finite, not {value!r}: a drill has to end")
    if value < least or (above and value == least) or value > most:
        limit = f"above {least:g}" if above else f"at least {least:g}"
        if most < math.inf:
            limit += f" and at most {most:g}"
        raise ScenarioError(key, f"must be {limit}, not {value!r}")
    return float(value)


def whole(value: Any, key: str, *, least: int = 0) -> int:
    """Return `value` as a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ScenarioError(key, f"must be a whole number, not {_kind(value)}")
    if value < least:
        raise ScenarioError(key, f"must be at least {least}, not {value}")
    return value


def words(value: Any, key: str) -> str:
    """Return `value` if it is a string with something in it."""
    if not isinstance(value, str):
        raise ScenarioError(key, f"must be a string, not {_kind(value)}")
    if not value:
        raise ScenarioError(key, "must not be empty")
    return value


def names(value: Any, key: str) -> tuple[str, ...]:
    """Return a string, or a list of strings, as a tuple."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple)) or not value:
        raise ScenarioError(key, f"must be a name or a list of names, not {_kind(value)}")
    return tuple(words(one, f"{key}[{index}]") for index, one in enumerate(value))


def one_of(value: Any, key: str, choices: tuple[str, ...]) -> str:
    """Return `value` if it is one of `choices`."""
    if value not in choices:
        spelled = " or ".join(repr(one) for one in choices)
        raise ScenarioError(key, f"must be {spelled}, not {value!r}")
    return str(value)


def flag(value: Any, key: str) -> bool:
    """Return `value` if it is true or false."""
    if not isinstance(value, bool):
        raise ScenarioError(key, f"must be true or false, not {_kind(value)}")
    return value


def table(value: Any, key: str) -> dict[str, Any]:
    """Return `value` if it is a table with string keys."""
    if not isinstance(value, dict):
        raise ScenarioError(key, f"must be a table, not {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    spelled = {dict: "a table", list: "a list", str: f"the string {value!r}", bool: repr(value)}
    return spelled.get(type(value), f"{type(value).__name__}")
