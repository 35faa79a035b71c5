"""Which member of an active-active pool takes a call.

From the outside in:

1. A member whose breaker would let a trial through gets the next call, so that it can
   come back however little traffic there is.
2. Priority groups: a group that has h of its members healthy takes min(1, 1.4 h) of the
   calls, the next group takes of the rest (Envoy's overprovisioning factor).
3. In a group, those that are not healthy are ejected, the earliest first, but no more than
   `max_ejected` of them (one may always be). The rest are called although they fail.
4. When fewer than `panic_threshold` of a group are healthy, and the other groups cannot
   take its load, the group panics: all are used, because the healthy few would be next.
5. Among what is left, the balance decides. A member that has just come back counts for
   little at first, and grows to its weight within `ramp` seconds.

The default balance draws two members at random and takes the one that is cheaper, by peak
EWMA of the latency x (calls in flight + 1): "The Power of Two Choices in Randomized Load
Balancing", Mitzenmacher 2001; the peak-sensitive average is that of Finagle. A latency
above the average takes its place at once, one below pulls it down slowly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Literal, Protocol

from resilient._core.health import Health, Standing

Balance = Literal["ewma", "least_loaded", "round_robin", "random"]

OVERPROVISION: Final = 1.4
# The share of its weight with which a member that comes back starts.
RAMP_FROM: Final = 0.1
# Seconds in which an average forgets to 1/e. Finagle's default.
DECAY: Final = 10.0


class Candidate(Protocol):
    """What is read of a member here."""

    name: str
    weight: float
    priority: int
    health: Health
    load: Load

    @property
    def in_flight(self) -> int: ...


class Load:
    """The latency of one member, as its peak-sensitive average, in seconds."""

    __slots__ = ("_at", "_latency", "current", "failing_since", "returned_at")

    def __init__(self) -> None:
        self._latency = 0.0
        self._at = -math.inf
        self.failing_since: float | None = None
        self.returned_at = -math.inf
        # For smooth weighted round-robin.
        self.current = 0.0

    def observe(self, took: float, now: float, *, failed: bool = False) -> None:
        """Count a call. A quick failure does not make a member look quick."""
        average = self._latency
        if took >= average:
            self._latency, self._at = took, now
        elif not failed:
            kept = math.exp(min(0.0, self._at - now) / DECAY)
            self._latency, self._at = average * kept + took * (1 - kept), now

    def latency(self, now: float) -> float | None:
        """The average, which fades while no call comes; `None` if none ever came."""
        if self._at == -math.inf:
            return None
        return self._latency * math.exp(min(0.0, self._at - now) / DECAY)


@dataclass(slots=True)
class Group:
    """The members of one priority, as they stood when last looked at."""

    members: list[Any] = field(default_factory=list)
    usable: list[Any] = field(default_factory=list)
    healthy: float = 0.0
    count_healthy: int = 0
    panics: bool = False
    share: float = 0.0

    @property
    def capacity(self) -> float:
        return min(1.0, self.healthy * OVERPROVISION)


@dataclass(frozen=True, slots=True)
class View:
    """How all members stood when last looked at. Never changed, so it is read without a lock.

    `even`: all members are up, alike, and in one group, so that nothing has to be looked at.
    """

    groups: list[Group] = field(default_factory=list)
    total: float = 1.0
    even: bool = False

    @property
    def panics(self) -> bool:
        return any(group.panics for group in self.groups)


@dataclass(frozen=True, slots=True)
class BalanceRules:
    """How the load is spread; see `ActiveActive`."""

    balance: Balance
    max_ejected: float
    panic_threshold: float
    ramp: float


class Balancer:
    """The machine. It must be told, by `refresh`, when the time or a member has changed."""

    def __init__(self, rules: BalanceRules) -> None:
        self.rules = rules
        self._view = View()
        # Whose turn it is while all are alike; the count is taken without a lock.
        self._turns = itertools.count()

    @property
    def panics(self) -> bool:
        """Whether all members of a group are used because too few of them are healthy."""
        return self._view.panics

    def refresh(self, seats: Sequence[Candidate], now: float) -> int | None:
        """Look at all members; the number of healthy ones if the pool has begun to panic."""
        by_priority: dict[int, Group] = {}
        for seat in sorted(seats, key=lambda one: one.priority):
            if not seat.health.draining:
                by_priority.setdefault(seat.priority, Group()).members.append(seat)
        groups = list(by_priority.values())
        for group in groups:
            self._judge(group, now)
        self._share_out(groups)
        alike = len(groups) == 1 and len({seat.weight for seat in seats}) == 1
        total = sum(group.share for group in groups)
        before, self._view = self._view, View(groups, total, alike and self.settled(seats, now))
        if self._view.panics and not before.panics:
            return sum(group.count_healthy for group in groups)
        return None

    def settled(self, seats: Sequence[Candidate], now: float) -> bool:
        """Whether no time that passes changes anything."""
        return all(
            seat.load.failing_since is None and self._factor(seat, now) == 1.0 for seat in seats
        )

    def choose(self, skip: Collection[str], now: float, chance: Random) -> tuple[Any, bool] | None:
        """The next member to try, and whether to call it past its breaker; `None`: none."""
        view = self._view
        if view.even:
            free = view.groups[0].usable
            if skip:
                free = [seat for seat in free if seat.name not in skip]
            return (self._pick(free, True, now, chance), False) if free else None
        trial = _trial(view, skip, now)
        if trial is not None:
            return trial, False
        for group in _in_turn(view, chance):
            free = [seat for seat in group.usable if seat.name not in skip]
            if free:
                seat = self._pick(free, False, now, chance)
                return seat, seat.load.failing_since is not None
        return None

    def _judge(self, group: Group, now: float) -> None:
        failing = []
        for seat in group.members:
            load = seat.load
            if seat.health.standing(now) is Standing.UP:
                if load.failing_since is not None:
                    load.failing_since, load.returned_at = None, now
            else:
                if load.failing_since is None:
                    load.failing_since = now
                failing.append(seat)
        size = len(group.members)
        failing.sort(key=lambda one: one.load.failing_since)
        ejected = failing[: max(1, int(self.rules.max_ejected * size + 1e-9))]
        group.usable = [seat for seat in group.members if seat not in ejected]
        group.count_healthy = size - len(failing)
        group.healthy = group.count_healthy / size

    def _share_out(self, groups: list[Group]) -> None:
        """Decide what part of the calls goes to which group, and which groups panic."""
        left = 1.0
        capacity = sum(group.capacity for group in groups)
        for group in groups:
            others = capacity - group.capacity
            group.panics = group.healthy < self.rules.panic_threshold and others < 1
            if group.panics:
                group.usable = group.members
            group.share = min(left, group.capacity)
            left -= group.share
        if left > 1 - 1e-9:
            # Nobody is healthy: each group for as many members as it has.
            for group in groups:
                group.share = float(len(group.members))

    def _factor(self, seat: Candidate, now: float) -> float:
        """The part of its weight that a member which came back has regained."""
        ramp = self.rules.ramp
        passed = now - seat.load.returned_at
        if passed >= ramp:
            return 1.0
        return RAMP_FROM + (1 - RAMP_FROM) * passed / ramp

    # The balances.

    def _pick(self, free: list[Any], even: bool, now: float, chance: Random) -> Any:
        if len(free) == 1:
            return free[0]
        balance = self.rules.balance
        weights = None if even else [seat.weight * self._factor(seat, now) for seat in free]
        if weights is not None and min(weights) == max(weights):
            weights = None
        if balance == "round_robin":
            return free[next(self._turns) % len(free)] if even else _rotate(free, weights)
        if balance == "random":
            return chance.choices(free, weights)[0]
        cost = _in_flight if balance == "least_loaded" else _by_latency(free, now)
        return _cheaper(free, weights, chance, cost)


def _in_turn(view: View, chance: Random) -> list[Group]:
    """The groups, the one that this call belongs to first."""
    groups = view.groups
    if len(groups) < 2:
        return groups
    draw = chance.random() * view.total
    for index, group in enumerate(groups):
        draw -= group.share
        if draw < 0:
            return [group, *groups[:index], *groups[index + 1 :]]
    return groups


def _trial(view: View, skip: Collection[str], now: float) -> Any:
    """A member that a call would bring back, in a group that calls go to at all."""
    left = view.total
    for group in view.groups:
        for seat in group.members:
            failing = seat.load.failing_since is not None
            if failing and seat.name not in skip and seat.health.has_trial(now):
                return seat
        left -= group.share
        if left <= 1e-9:
            return None
    return None


def _cheaper(
    free: list[Any], weights: list[float] | None, chance: Random, cost: Callable[[Any], float]
) -> Any:
    """Draw two, take the cheaper one; the first drawn if they cost the same.

    Two different ones where all weigh the same. By weight the same one may be drawn twice:
    else the weights of two members would say nothing.
    """
    if weights is None:
        size = len(free)
        index = int(chance.random() * size)
        other = int(chance.random() * (size - 1))
        first, second = free[index], free[other + (other >= index)]
    else:
        first, second = chance.choices(free, weights, k=2)
    return second if cost(second) < cost(first) else first


def _in_flight(seat: Any) -> float:
    load: int = seat.in_flight
    return load


def _by_latency(free: list[Any], now: float) -> Callable[[Any], float]:
    def cost(seat: Any) -> float:
        latency = seat.load.latency(now)
        if latency is None:
            # Nobody knows: as quick as the others are.
            known = [one for seat in free if (one := seat.load.latency(now)) is not None]
            latency = sum(known) / len(known) if known else 1.0
        load: float = latency * (seat.in_flight + 1)
        return load

    return cost


def _rotate(free: list[Any], weights: list[float] | None) -> Any:
    """Smooth weighted round-robin, as nginx has it."""
    each = weights or [1.0] * len(free)
    for seat, weight in zip(free, each, strict=True):
        seat.load.current += weight
    chosen = max(free, key=lambda one: one.load.current)
    chosen.load.current -= sum(each)
    return chosen
