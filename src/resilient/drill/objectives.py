"""Objectives: sentences such as `availability >= 0.999` that a run is held against."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from resilient.drill.errors import ScenarioError, unknown

# What each figure is; those with a unit of seconds end in "s" in the table.
METRICS: Final[dict[str, tuple[str, str]]] = {
    "availability": ("calls that got their answer", "share"),
    "nines": ("the same, in nines", ""),
    "calls": ("calls made", ""),
    "successes": ("calls answered", ""),
    "failures": ("calls that failed", ""),
    "rejected": ("calls refused by a policy", ""),
    "timed_out": ("calls that timed out", ""),
    "unfinished": ("calls without an end", ""),
    "goodput": ("answers per second", "/s"),
    "p50": ("latency of answered calls, median", "s"),
    "p95": ("latency, 95th percentile", "s"),
    "p99": ("latency, 99th percentile", "s"),
    "p999": ("latency, 99.9th percentile", "s"),
    "longest": ("latency, longest", "s"),
    "finished": ("until the last call had ended", "s"),
    "requests": ("requests to the backends", ""),
    "amplification": ("requests to the backends per call", "x"),
    "failover_time": ("until a pool left a failed member", "s"),
    "failback_time": ("until it was back, after the fault", "s"),
    "recovery_time": ("until calls were well again, after the fault", "s"),
    "degraded_time": ("time with less than 99 % answered", "s"),
    "utilisation": ("of the backends' capacity, on average", "share"),
    "members": ("backends running, on average", ""),
}

_SIGNS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
}
_UNITS: Final = {"": 1.0, "%": 0.01, "s": 1.0, "ms": 0.001, "x": 1.0}
_SENTENCE: Final = re.compile(
    r"\s*(\w+)\s*(<=|>=|==|<|>)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(%|ms|s|x|)\s*"
)


@dataclass(frozen=True, slots=True)
class Objective:
    """One objective, as it was written and as it is judged."""

    text: str
    metric: str
    sign: str
    limit: float

    def met(self, value: float | None) -> bool:
        """Whether `value` is good enough; what never happened is not."""
        return value is not None and _SIGNS[self.sign](value, self.limit)


def objective(text: Any, key: str) -> Objective:
    """Return the objective that `text` says.

    Raises:
        ScenarioError: It is not of the form `metric sign number`, or there is no such metric.
    """
    found = _SENTENCE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ScenarioError(
            key,
            f"must be a metric, one of {' '.join(_SIGNS)}, and a number, such as "
            f'"availability >= 0.999" or "p99 <= 250 ms", not {text!r}',
        )
    metric, sign, limit, unit = found.groups()
    if metric not in METRICS:
        raise unknown(key, "metric", metric, METRICS)
    return Objective(str(text).strip(), metric, sign, float(limit) * _UNITS[unit])


def spell(metric: str, value: float | None) -> str:
    """A figure as a person reads it."""
    if value is None:
        return "never" if metric.endswith("_time") else "-"
    unit = METRICS[metric][1]
    if metric == "nines":
        return "all" if value == float("inf") else f"{value:.2f}"
    if unit == "share":
        return f"{value:.4%}" if 0.99 < value < 1 else f"{value:.2%}"
    if unit == "s":
        return f"{value * 1000:.3g} ms" if value < 0.9995 else f"{value:,.2f} s"
    if unit == "x":
        return f"{value:,.4g}x"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"
