"""How long it took: to fail over, to fail back, to recover."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from resilient.drill.faults import Fault
from resilient.drill.recorder import PIECES, Recorder

# A piece of time in which this share of the calls that began then are answered is a good one.
WELL: Final = 0.99
# Seconds for which it must stay good.
_STEADY: Final = 3.0


@dataclass(frozen=True, slots=True)
class Handling:
    """What became of one fault; seconds, `None` for never."""

    kind: str
    backends: tuple[str, ...]
    at: float
    end: float
    failover: float | None
    failback: float | None
    recovery: float | None

    def as_dict(self) -> dict[str, Any]:
        """It as plain values."""
        return {
            "kind": self.kind,
            "backends": list(self.backends),
            "at": self.at,
            "end": self.end,
            "failover": rounded(self.failover),
            "failback": rounded(self.failback),
            "recovery": rounded(self.recovery),
        }


def handling(
    fault: Fault, backends: tuple[str, ...], recorder: Recorder, elapsed: float
) -> Handling:
    """Find out what became of a fault."""
    left = _first(recorder.left, backends, fault.at)
    back = None if left is None else _first(recorder.returned, backends, fault.end)
    return Handling(
        kind=fault.kind,
        backends=backends,
        at=fault.at,
        end=fault.end,
        failover=None if left is None or left >= fault.end else left - fault.at,
        failback=None if back is None else back - fault.end,
        recovery=_recovery(recorder, fault.end, elapsed),
    )


def _first(times: dict[str, list[float]], backends: tuple[str, ...], since: float) -> float | None:
    found = [at for name in backends for at in times.get(name, ()) if at >= since]
    return min(found, default=None)


def _well(recorder: Recorder) -> list[bool]:
    """Whether each piece of time is a good one; one without calls is as the one before."""
    found, well = [], True
    for started, served in zip(recorder.started, recorder.served, strict=True):
        if started:
            well = served / started >= WELL
        found.append(well)
    return found


def _recovery(recorder: Recorder, end: float, elapsed: float) -> float | None:
    """Seconds from `end` until calls are answered again, and go on being."""
    width, well = recorder.width, _well(recorder)
    steady = max(1, math.ceil(_STEADY / width - 1e-9))
    # The piece that the fault ends in is judged too: it may have done no harm.
    first, last = min(PIECES, int(end / width + 1e-9)), min(PIECES, math.ceil(elapsed / width))
    for piece in range(first, last):
        if all(well[piece : min(piece + steady, last)]):
            return max(0.0, piece * width - end)
    return None


def degraded(recorder: Recorder, elapsed: float) -> float:
    """Seconds in which too few calls were answered."""
    last = min(PIECES, math.ceil(elapsed / recorder.width))
    return recorder.width * _well(recorder)[:last].count(False)


def rounded(value: float | None, digits: int = 6) -> float | None:
    """`value` with as many digits as mean something."""
    if value is None or isinstance(value, int):
        return value
    if not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")
