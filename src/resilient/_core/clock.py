"""The library's one clock, monotonic, and the one place where it can be exchanged.

Read it as `clock.now()`, through the module, each time: `resilient.testing` puts another
function in place, and a bound reference would go on reading the old one. State machines
do not read it at all; they are handed the time.
"""

from __future__ import annotations

import time

# Seconds on a clock that no change of the wall clock moves.
now = time.monotonic
# Seconds since the epoch, only to read the HTTP dates that servers send.
wall = time.time
