"""Which member of an N+1 pool serves which active's calls.

A place is one active's share of the keys. It is served by that active, or, while the active
has failed, by one spare that is bound to the place:

============================  =========================================================
the server is not UP          a free spare that stands better is bound to the place;
                              without one the place is uncovered, and reported
the bound spare is DOWN       it is let go, and another one is bound if there is one
the server is UP again        its spare is let go, and takes an uncovered place if there
                              is one
`keep`                        the spare takes the place for good, and what it replaced
                              becomes a spare, free once it is well
============================  =========================================================

A spare is bound to one place at most. What fails comes back through its breaker's trial
alone, whose waits grow, so a spare that fails in its turn is not bound over and over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Any

from resilient._core.health import Health, Standing
from resilient._core.rendezvous import encode, owner

# A change to announce: what happened, to which spare, for which active.
Change = tuple[str, str, str]


class Place:
    """One active's share: its name never changes, so that no key ever moves."""

    __slots__ = ("cover", "name", "server")

    def __init__(self, server: Any) -> None:
        self.name: str = server.name
        self.server = server
        self.cover: Any = None

    @property
    def health(self) -> Health:
        health: Health = self.server.health
        return health


class Covering:
    """The machine."""

    def __init__(self, *, spread: bool, keep: bool) -> None:
        self.spread = spread
        self.keep = keep
        self.places: dict[str, Place] = {}
        self.spares: list[Any] = []
        self.uncovered: tuple[str, ...] = ()
        self.changes: deque[Change] = deque()
        # Sets of uncovered places to report, as the names of their servers.
        self.degraded: deque[tuple[str, ...]] = deque()

    def add(self, seat: Any, *, spare: bool) -> None:
        """Take a member in."""
        if spare:
            self.spares = [*self.spares, seat]
        else:
            self.places = {**self.places, seat.name: Place(seat)}

    def remove(self, seat: Any) -> None:
        """Let a member go; a place goes with the member that serves it."""
        for place in self.places.values():
            if place.cover is seat or (place.server is seat and place.cover is not None):
                self._release(place)
        self.places = {
            name: place for name, place in self.places.items() if place.server is not seat
        }
        self.spares = [one for one in self.spares if one is not seat]

    def refresh(self, now: float) -> None:
        """Bind and let go what is to be."""
        for place in self.places.values():
            if place.cover is not None and self._lets_go(place, now):
                self._release(place)
        uncovered = []
        for place in self.places.values():
            if place.cover is None and place.health.standing(now) is not Standing.UP:
                self._cover(place, now)
                if place.cover is None and place.health.standing(now) is not Standing.UP:
                    uncovered.append(place.server.name)
        self._report(tuple(uncovered))

    def place_of(self, key: Any) -> Place:
        """The place that `key` names, or that owns it."""
        places = self.places
        if isinstance(key, str):
            if key in places:
                return places[key]
            for place in places.values():
                if place.server.name == key:
                    return place
        owners = ((name, place.server.weight) for name, place in places.items())
        return places[owner(encode(key), owners)]

    def choose(self, place: Place, skip: Collection[str], now: float) -> Any:
        """The next member to try for a call that belongs to `place`."""
        if place.server.name not in skip and place.health.standing(now) is Standing.UP:
            return place.server
        for seat in self._in_turn(place, now):
            if seat.name not in skip and seat.health.standing(now) is not Standing.DOWN:
                return seat
        return None

    def healthy(self, now: float) -> list[Place]:
        """The places whose servers are well."""
        return [one for one in self.places.values() if one.health.standing(now) is Standing.UP]

    def _in_turn(self, place: Place, now: float) -> list[Any]:
        spares = sorted(self._free(), key=lambda one: -one.health.standing(now))
        if place.health.standing(now) is Standing.UP:
            return [place.server, *spares]
        # The server only as a trial, so that its other callers need not wait for the answer.
        first = [place.server] if place.health.has_trial(now) else []
        if place.cover is not None:
            first.append(place.cover)
        return [*first, *spares]

    def _free(self) -> list[Any]:
        bound = {id(place.cover) for place in self.places.values()}
        return [seat for seat in self.spares if id(seat) not in bound]

    def _lets_go(self, place: Place, now: float) -> bool:
        if place.health.standing(now) is Standing.UP:
            return True
        health: Health = place.cover.health
        return health.standing(now) is Standing.DOWN

    def _release(self, place: Place) -> None:
        self.changes.append(("released", place.cover.name, place.server.name))
        place.cover = None

    def _cover(self, place: Place, now: float) -> None:
        free = self._free()
        best: Standing = max((seat.health.standing(now) for seat in free), default=Standing.DOWN)
        if best <= place.health.standing(now):
            # Two on trial would only change places for ever.
            return
        spare = next(seat for seat in free if seat.health.standing(now) is best)
        self.changes.append(("assigned", spare.name, place.server.name))
        if self.keep:
            self._swap(place, spare)
        else:
            place.cover = spare

    def _swap(self, place: Place, spare: Any) -> None:
        replaced, place.server = place.server, spare
        self.spares = [*(seat for seat in self.spares if seat is not spare), replaced]

    def _report(self, uncovered: tuple[str, ...]) -> None:
        before, self.uncovered = self.uncovered, uncovered
        if not set(uncovered) <= set(before):
            self.degraded.append(uncovered)
