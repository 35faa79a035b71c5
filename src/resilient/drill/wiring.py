"""Putting simulated backends behind a user's own policies, for the length of one run."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from resilient._decorate import Protected
from resilient._policy import Policy
from resilient.drill.backend import Backend
from resilient.drill.errors import ScenarioError
from resilient.drill.scenario import CallFunction, Scenario
from resilient.failover.pool import Pool
from resilient.pipeline import pipeline_of


def policy_of(thing: Any, key: str) -> Policy[Any, Any]:
    """Return the policy that `thing` is, or by which it is protected, or which it makes."""
    if isinstance(thing, Policy):
        return thing
    if type(thing) is Protected:
        return pipeline_of(thing)
    if callable(thing):
        made = thing()
        if isinstance(made, Policy):
            return made
    raise ScenarioError(
        key, f"must name a policy, or a function that makes one, not {type(thing).__name__}"
    )


def wire(scenario: Scenario, stack: ExitStack) -> tuple[CallFunction, list[Pool[Any]]]:
    """Return the function that makes one call, and the pools to run meanwhile.

    What is exchanged in them is put back when `stack` is closed.
    """
    if scenario.call is not None:
        return scenario.call, []
    policy = scenario.policy
    assert policy is not None
    pools = [leaf for leaf in policy._leaves() if isinstance(leaf, Pool)]
    if pools:
        for pool in pools:
            _put_behind(pool, scenario.backends, stack)
        return policy(_ask_member), pools
    if len(scenario.backends) > 1:
        raise ScenarioError(
            "backends",
            f"there are {len(scenario.backends)}, but no pool in the policy to choose among them",
        )
    (backend,) = scenario.backends.values()

    async def request(*args: Any) -> str:
        return await backend.request()

    return policy(request), []


async def _ask_member(backend: Backend, *args: Any) -> str:
    return await backend.request()


_ask_member.__name__ = _ask_member.__qualname__ = "request"


def _put_behind(pool: Pool[Any], backends: dict[str, Backend], stack: ExitStack) -> None:
    for seat in pool._seats.values():
        if isinstance(seat.target, Backend):
            if backends.get(seat.target.name) is not seat.target:
                raise ScenarioError(
                    "backends", f"{seat.target.name!r} of {pool.name} is not among them"
                )
            continue
        backend = backends.get(seat.name)
        if backend is None:
            raise ScenarioError(
                "backends",
                f"there is none for the member {seat.name!r} of {pool.name}: name one so",
            )
        _exchange(stack, seat, "target", backend)
        if seat.life is not None:
            # Nothing real is to be started by a drill.
            _exchange(stack, seat.life, "_start", backend.start)
            _exchange(stack, seat.life, "_stop", backend.stop)
            backend.cold = True
        check = pool._check
        if check is not None:
            _exchange(stack, check, "probe", Backend.probe)
            _exchange(stack, check, "is_async", True)


def _exchange(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)
