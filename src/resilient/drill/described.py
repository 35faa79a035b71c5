"""Policies as a TOML file describes them: a kind, and the options of that kind."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from resilient._core.backoff import decorrelated, exponential
from resilient._core.budget import RetryBudget
from resilient._policy import Policy
from resilient.bulkhead import Bulkhead
from resilient.circuit_breaker import CircuitBreaker
from resilient.drill import checks
from resilient.drill.backend import Backend
from resilient.drill.errors import ScenarioError, inside, join, unknown
from resilient.errors import CallTimeoutError
from resilient.failover import ActiveActive, ActivePassive, HealthCheck, Member, NPlusOne
from resilient.hedge import Hedge, Quantile
from resilient.pipeline import Pipeline
from resilient.retry import Retry
from resilient.timeout import Timeout

Errors = tuple[type[Exception], ...]
Backends = dict[str, Backend]


def build(
    make: Callable[..., Any],
    table: dict[str, Any],
    key: str,
    given: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """Call `make` with a table as its options, after a look at their names, and what is given.

    Raises:
        ScenarioError: There is no such option, one is missing, or a value is refused.
    """
    known = inspect.signature(make).parameters
    for name in table:
        if name not in known or name in given:
            raise unknown(join(key, name), "key", name, set(known) - set(given))
    for name, parameter in known.items():
        needed = parameter.default is inspect.Parameter.empty
        if needed and name not in table and name not in given and parameter.kind in _NAMED:
            raise ScenarioError(key, f"{name} is missing")
    with inside(key):
        return make(**table, **given)


_NAMED: Final = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def pipeline(tables: Any, key: str, name: str, backends: Backends) -> Policy[Any, Any]:
    """Return the pipeline that a list of tables describes, outermost first."""
    if not isinstance(tables, list) or not tables:
        raise ScenarioError(key, 'must be "module:name", or tables with a kind, as [[policy]]')
    found = []
    for index, table in enumerate(tables):
        place = f"{key}[{index}]"
        found.append(_policy(checks.table(table, place), place, backends))
    with inside(key):
        return Pipeline(*found, name=name)


def _policy(table: dict[str, Any], key: str, backends: Backends) -> Policy[Any, Any]:
    options = dict(table)
    if "kind" not in options:
        raise ScenarioError(key, f"kind is missing; there are {', '.join(sorted(_KINDS))}")
    kind = checks.words(options.pop("kind"), f"{key}.kind")
    make = _KINDS.get(kind)
    if make is None:
        raise unknown(f"{key}.kind", "policy", kind, _KINDS)
    for name, convert in _CONVERTED.items():
        if name in options:
            options[name] = convert(options[name], f"{key}.{name}", backends)
    # Here, where it would be hard to say, all that can fail is retried.
    errors = _errors(backends)
    policy: Policy[Any, Any] = make(options, key, backends, errors)
    return policy


def _errors(backends: Backends) -> Errors:
    classes = [one.error for one in backends.values() if isinstance(one.error, type)]
    return tuple(dict.fromkeys(classes)) or (Exception,)


# Values that are not plain.


def _backoff(value: Any, key: str, backends: Backends) -> Any:
    if not isinstance(value, dict):
        return value
    options = dict(value)
    jitter = options.get("jitter")
    if jitter == "decorrelated":
        del options["jitter"]
        return build(decorrelated, options, key)
    return build(exponential, options, key)


def _budget(value: Any, key: str, backends: Backends) -> RetryBudget | None:
    if value is False:
        return None
    if not isinstance(value, dict):
        raise ScenarioError(key, "must be a table { ratio, capacity }, or false for none")
    budget: RetryBudget = build(_new_budget, value, key)
    return budget


def _new_budget(*, ratio: float = 0.1, capacity: float = 100) -> RetryBudget:
    return RetryBudget(ratio=ratio, capacity=capacity)


def _delay(value: Any, key: str, backends: Backends) -> Any:
    if not isinstance(value, dict):
        return value
    return build(_new_quantile, value, key)


def _new_quantile(*, quantile: float, initial: float) -> Quantile:
    return Quantile(quantile, initial=initial)


def _check(value: Any, key: str, backends: Backends) -> HealthCheck[Backend]:
    check: HealthCheck[Backend] = build(
        HealthCheck, checks.table(value, key), key, {"probe": Backend.probe}
    )
    return check


def _members(value: Any, key: str, backends: Backends) -> list[Member[Backend]]:
    tables = value if isinstance(value, list) else [value]
    found = []
    for index, one in enumerate(tables):
        place = f"{key}[{index}]"
        options = {"name": one} if isinstance(one, str) else dict(checks.table(one, place))
        name = checks.words(options.get("name"), f"{place}.name")
        if name not in backends:
            raise unknown(f"{place}.name" if isinstance(one, dict) else place, "backend", name,
                          backends)  # fmt: skip
        backend = backends[name]
        cold = {"start": backend.start, "stop": backend.stop} if backend.cold else {}
        found.append(build(Member, options, place, {"target": backend, **cold}))
    return found


_CONVERTED: Final[dict[str, Callable[[Any, str, Backends], Any]]] = {
    "backoff": _backoff,
    "open_for": _backoff,
    "budget": _budget,
    "delay": _delay,
    "health_check": _check,
    "members": _members,
    "actives": _members,
    "spares": _members,
}


# The kinds.

Make = Callable[[dict[str, Any], str, Backends, Errors], Policy[Any, Any]]


def _plain(cls: Any) -> Make:
    def make(options: dict[str, Any], key: str, backends: Backends, errors: Errors) -> Any:
        return build(cls, options, key)

    return make


def _acting(cls: Any, *more: type[Exception]) -> Make:
    def make(options: dict[str, Any], key: str, backends: Backends, errors: Errors) -> Any:
        return build(_without_positional(cls), options, key, {"on": (*errors, *more)})

    return make


def _without_positional(cls: Any) -> Any:
    """`cls`, without the parameters that only a position can name."""
    if cls is not Retry:
        return cls
    signature = inspect.signature(cls)
    kept = [one for one in signature.parameters.values() if one.kind is not one.POSITIONAL_ONLY]

    def make(**options: Any) -> Any:
        return cls(**options)

    make.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return make


def _pool(cls: Any, *lists: str) -> Make:
    def make(options: dict[str, Any], key: str, backends: Backends, errors: Errors) -> Any:
        if not any(name in options for name in lists) and lists == ("members",):
            # All backends, in the order in which they stand in the file.
            options["members"] = _members(list(backends), key, backends)
        options.setdefault("name", "pool")
        given: dict[str, Any] = {"on": (*errors, CallTimeoutError)}
        if cls is NPlusOne and checks.flag(options.pop("keyed", False), join(key, "keyed")):
            given["key"] = _same
        return build(cls, options, key, given)

    return make


def _same(key: str) -> str:
    return key


def _standard(options: dict[str, Any], key: str, backends: Backends, errors: Errors) -> Any:
    options.setdefault("name", "standard")
    return build(Pipeline.standard, options, key, {"on": errors})


_KINDS: Final[dict[str, Make]] = {
    "retry": _acting(Retry, CallTimeoutError),
    "circuit_breaker": _acting(CircuitBreaker),
    "timeout": _plain(Timeout),
    "bulkhead": _plain(Bulkhead),
    "hedge": _acting(Hedge),
    "active_active": _pool(ActiveActive, "members"),
    "active_passive": _pool(ActivePassive, "members"),
    "n_plus_one": _pool(NPlusOne, "actives", "spares"),
    "standard": _standard,
}
