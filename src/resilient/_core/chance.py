"""The library's one source of randomness, and the one place where it can be exchanged.

Read it as `chance.source.random()`, through the module, each time: a seeded source is put
in its place by `resilient.testing`.
"""

from __future__ import annotations

import random

source: random.Random = random.Random()
