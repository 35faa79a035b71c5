"""Failover pools: several interchangeable backends behind one call.

`ActiveActive` shares the load, `ActivePassive` has one member take it and another stand
by, `NPlusOne` gives each key to its owner and a failed owner's keys to a spare.
"""

from __future__ import annotations

from resilient.failover.active_active import ActiveActive
from resilient.failover.active_passive import ActivePassive
from resilient.failover.checks import HealthCheck
from resilient.failover.member import Member
from resilient.failover.n_plus_one import NPlusOne

__all__ = ["ActiveActive", "ActivePassive", "HealthCheck", "Member", "NPlusOne"]
