"""Faults on purpose, to see that the other policies do what they are there for.

Injectors are policies, and stand where the fault is to happen. They do nothing outside an
experiment::

    pipeline = Pipeline(
        Retry(on=ConnectionError),
        chaos.InjectFault(0.1, ConnectionError),
        chaos.InjectLatency(0.05, 2),
        name="orders",
    )

    with chaos.experiment("a bad day", seed=7, until=600):
        ...

Members of failover pools are taken down by `take_down` and brought back by `bring_back`.

The environment variable `RESILIENT_CHAOS`, read when this module is imported, begins an
experiment for the whole process: `RESILIENT_CHAOS=1`, or `name=value` pairs with commas
between them, of `name`, `seed`, `until` (seconds), `injector`, `key`, `member`, `pool` and
`function`. It is announced in the log, as a warning of the logger `resilient`.

Which calls are struck hangs on the experiment's seed, the injector's name, the key and how
manieth call of that key it is, and on nothing else: neither on other threads and tasks nor
on the process.
"""

from __future__ import annotations

import os

from resilient.chaos._environment import read as _read
from resilient.chaos._experiments import Experiment, experiment
from resilient.chaos._injectors import InjectBehavior, InjectFault, InjectLatency, InjectResult
from resilient.chaos._members import MemberDownError, Outage, bring_back, take_down
from resilient.chaos._where import Where

__all__ = [
    "Experiment",
    "InjectBehavior",
    "InjectFault",
    "InjectLatency",
    "InjectResult",
    "MemberDownError",
    "Outage",
    "Where",
    "bring_back",
    "experiment",
    "take_down",
]

_read(os.environ)
