"""The picture of the circuit breaker's states, drawn from what its state machine does.

Every stimulus is tried on a circuit in every state, and the changes that follow are the
arrows. A change that has no place in the layout is an error: the picture is then out of date.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from docs.pictures.drawing import HEAD, arrow, box, page
from resilient._core.circuit import Circuit, CircuitState, Permit, Refusal, Rules
from resilient._core.window import CountWindow

CLOSED, OPEN, HALF_OPEN, ISOLATED = CircuitState

_OPEN_FOR, _HUNG = 30.0, 60.0
_LATER = 100.0


def _circuit() -> Circuit:
    return Circuit(
        Rules(
            new_window=partial(CountWindow, 2),
            minimum_calls=1,
            failure_rate=0.5,
            consecutive_failures=None,
            slow_rate=1.0,
            open_for=_OPEN_FOR,
            half_open_calls=1,
            half_open_timeout=_HUNG,
        )
    )


def _permit(circuit: Circuit, now: float) -> Permit | None:
    found = circuit.admit(now)
    return None if isinstance(found, Refusal) else found


def _fails(circuit: Circuit, now: float) -> None:
    permit = _permit(circuit, now)
    if permit is not None:
        permit.bad(now, True, False, "")


def _succeeds(circuit: Circuit, now: float) -> None:
    permit = _permit(circuit, now)
    if permit is not None:
        permit.success_at(now)


def _hangs(circuit: Circuit, now: float) -> None:
    permit = _permit(circuit, now)
    circuit.state(now + _HUNG)
    if permit is not None:
        permit.neutral()


def _in_state(state: CircuitState) -> tuple[Circuit, float]:
    """Return a circuit in `state`, and a time at which nothing is due there."""
    circuit, now = _circuit(), 0.0
    if state is ISOLATED:
        circuit.isolate()
    elif state is not CLOSED:
        _fails(circuit, now)
    if state is HALF_OPEN:
        now = _LATER
        permit = circuit.admit(now)
        assert not isinstance(permit, Refusal)
        permit.neutral()
    circuit.changes.clear()
    return circuit, now


def _after_open_for(circuit: Circuit, now: float) -> None:
    circuit.admit(now + _LATER)


# What can happen, and how the picture calls it in the state it happens in.
_STIMULI: list[tuple[Callable[[Circuit, float], None], dict[CircuitState, str]]] = [
    (_fails, {CLOSED: "too many failures or slow calls", HALF_OPEN: "a probe failed"}),
    (_hangs, {HALF_OPEN: "or hung"}),
    (_succeeds, {HALF_OPEN: "half_open_calls probes succeeded"}),
    (_after_open_for, {OPEN: "the first call after open_for"}),
    (lambda circuit, now: circuit.isolate(), dict.fromkeys(CircuitState, "isolate()")),
    (lambda circuit, now: circuit.reset(), dict.fromkeys(CircuitState, "reset()")),
]


def transitions() -> dict[tuple[CircuitState, CircuitState], list[str]]:
    """Every change of state that the machine makes, and what brings each about."""
    found: dict[tuple[CircuitState, CircuitState], list[str]] = {}
    for state in CircuitState:
        for stimulus, names in _STIMULI:
            circuit, now = _in_state(state)
            stimulus(circuit, now)
            if circuit.changes:
                found.setdefault(circuit.changes[0], []).append(names[state])
    return found


_BOXES = {
    CLOSED: (30, 30, "good", "CLOSED", "calls go through"),
    OPEN: (640, 30, "bad", "OPEN", "calls are refused"),
    HALF_OPEN: (335, 190, "held", "HALF_OPEN", "a few calls probe"),
    ISOLATED: (335, 360, "cut", "ISOLATED", "refused until reset()"),
}
# For each arrow its path, and where its words stand.
_ARROWS: dict[tuple[CircuitState, CircuitState], tuple[str, float, float, str]] = {
    (CLOSED, OPEN): ("M220 46H638", 430, 38, "mid"),
    (OPEN, CLOSED): ("M640 74H222", 430, 92, "mid"),
    (OPEN, HALF_OPEN): ("M680 88C670 150 610 195 527 204", 640, 140, "end"),
    (HALF_OPEN, OPEN): ("M525 232C650 236 745 190 762 90", 640, 245, ""),
    (HALF_OPEN, CLOSED): ("M335 206C250 200 185 165 165 90", 206, 134, ""),
    (HALF_OPEN, ISOLATED): ("M430 248V358", 440, 312, ""),
    (CLOSED, ISOLATED): ("M110 88C125 260 200 360 333 376", 222, 330, ""),
    (ISOLATED, CLOSED): ("M335 400C160 396 70 300 62 90", 122, 392, "end"),
    (OPEN, ISOLATED): ("M800 88C805 290 690 395 527 396", 716, 372, ""),
}


def circuit_breaker() -> str:
    """Return the picture."""
    found = transitions()
    if set(found) != set(_ARROWS):
        raise AssertionError(f"the layout does not fit: {set(found) ^ set(_ARROWS)}")
    parts = [HEAD, *(box(*place) for place in _BOXES.values())]
    for change, words in found.items():
        path, x, y, classes = _ARROWS[change]
        parts.append(arrow(path, words, x, y, classes))
    return page(860, 436, "The states of a circuit breaker", parts)
