"""How long a simulated backend takes: distributions of seconds, drawn from a given source."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from resilient.drill.checks import number
from resilient.drill.errors import ScenarioError, inside

# Draws one service time in seconds.
Draw = Callable[[Random], float]
# Of the standard normal distribution.
_Z99 = 2.3263478740408408


@dataclass(frozen=True, slots=True)
class Latency:
    """A distribution of service times. Made by the functions of this module."""

    draw: Draw
    mean: float
    text: str

    def __repr__(self) -> str:
        return self.text


def always(seconds: float) -> Latency:
    """Return a service time that is always the same, 0 or more seconds."""
    fixed = number(seconds, "seconds")
    return Latency(lambda source: fixed, fixed, f"{fixed:g} s")


def exponential(mean: float) -> Latency:
    """Return exponentially distributed service times with a mean in seconds, above 0."""
    scale = number(mean, "mean", above=True)

    def draw(source: Random) -> float:
        return -math.log(1.0 - source.random()) * scale

    return Latency(draw, scale, f"exponential, mean {scale:g} s")


def lognormal(median: float, p99: float) -> Latency:
    """Return lognormal service times: half are below `median` seconds, 99 % below `p99`."""
    middle = number(median, "median", above=True)
    tail = number(p99, "p99", above=True)
    if tail < middle:
        raise ScenarioError("p99", f"must not be below the median of {middle:g} s")
    mu, sigma = math.log(middle), math.log(tail / middle) / _Z99

    def draw(source: Random) -> float:
        return math.exp(mu + sigma * source.gauss(0.0, 1.0))

    mean = math.exp(mu + sigma * sigma / 2)
    return Latency(draw, mean, f"lognormal, median {middle:g} s, p99 {tail:g} s")


def normal(mean: float, deviation: float) -> Latency:
    """Return normally distributed service times, those below 0 mirrored."""
    middle = number(mean, "mean")
    spread = number(deviation, "deviation")

    def draw(source: Random) -> float:
        return abs(source.gauss(middle, spread))

    return Latency(draw, middle, f"normal, mean {middle:g} s, deviation {spread:g} s")


def mixture(*parts: tuple[float, Latency | float]) -> Latency:
    """Return a mixture: each part is its share and what is drawn then; shares add up to 1."""
    if not parts:
        raise ScenarioError("mixture", "needs at least one part")
    shares = [number(share, f"mixture[{i}].share", most=1) for i, (share, _) in enumerate(parts)]
    if not math.isclose(sum(shares), 1.0, abs_tol=1e-9):
        raise ScenarioError("mixture", f"the shares add up to {sum(shares):g}, not to 1")
    drawn = [latency_of(one, f"mixture[{index}].latency") for index, (_, one) in enumerate(parts)]
    chances = list(zip(shares, (one.draw for one in drawn), strict=True))

    def draw(source: Random) -> float:
        at = source.random()
        for share, one in chances:
            at -= share
            if at < 0:
                return one(source)
        return chances[-1][1](source)

    mean = sum(share * one.mean for share, one in zip(shares, drawn, strict=True))
    text = ", ".join(f"{share:.3g} x ({one})" for share, one in zip(shares, drawn, strict=True))
    return Latency(draw, mean, text)


def drawn(draw: Draw, mean: float, text: str = "drawn by a function") -> Latency:
    """Return service times that `draw(source)` gives, a `random.Random` being the source.

    Args:
        draw: Returns seconds; must draw from nothing but its argument.
        mean: Its mean in seconds, for the report.
        text: What it is, in a few words.
    """
    if not callable(draw):
        raise ScenarioError("draw", "must be a function of a random.Random")
    return Latency(draw, number(mean, "mean"), text)


def latency_of(value: Any, key: str) -> Latency:
    """Return a latency from a `Latency`, seconds, or a table as it stands in TOML."""
    if isinstance(value, Latency):
        return value
    if isinstance(value, dict):
        with inside(key):
            return _from_table(value)
    return always(number(value, key))


def _from_table(table: dict[str, Any]) -> Latency:
    shapes: dict[frozenset[str], Callable[..., Latency]] = {
        frozenset(("seconds",)): always,
        frozenset(("mean",)): exponential,
        frozenset(("median", "p99")): lognormal,
        frozenset(("mean", "deviation")): normal,
        frozenset(("mixture",)): _mixture_of_tables,
    }
    make = shapes.get(frozenset(table))
    if make is None:
        raise ScenarioError(
            "",
            "must be seconds, { mean }, { median, p99 }, { mean, deviation } or { mixture }, "
            f"not a table with {', '.join(sorted(table)) or 'nothing in it'}",
        )
    return make(**table)


def _mixture_of_tables(*, mixture: Sequence[Any]) -> Latency:
    parts = []
    part: Any
    for index, part in enumerate(mixture if isinstance(mixture, list) else [mixture]):
        if not isinstance(part, dict) or set(part) != {"share", "latency"}:
            raise ScenarioError(f"mixture[{index}]", "must be a table { share, latency }")
        parts.append((part["share"], latency_of(part["latency"], f"mixture[{index}].latency")))
    return globals()["mixture"](*parts)  # type: ignore[no-any-return]
