"""Pipelines: several policies as one, outermost first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Never, Self

from resilient._call import AsyncCall, AsyncStream, Site, SyncCall, SyncStream
from resilient._core.durations import Duration, count, seconds
from resilient._core.verdict import Answer, On, classes
from resilient._decorate import Protected, compose
from resilient._observe import Listener, Unsubscribe
from resilient._order import check_order
from resilient._policy import Extra_co, Policy, Target_co, name_in_order
from resilient.bulkhead import Bulkhead
from resilient.circuit_breaker import CircuitBreaker
from resilient.errors import CallTimeoutError
from resilient.retry import Retry
from resilient.timeout import Timeout


@dataclass(frozen=True, slots=True)
class PipelineSnapshot:
    """The states of a pipeline's policies, outermost first."""

    name: str
    kind: str
    policies: tuple[Any, ...]


class Pipeline(Policy[Target_co, Extra_co]):
    """Several policies as one policy, outermost first.

    Args:
        policies: One or more policies; a pipeline may stand among them.
        name: Names the pipeline in events, errors and telemetry, and after it the policies
            that have no name of their own (`payments.retry`).

    Raises:
        TypeError: Something among them is not a policy.

    Warns:
        CompositionWarning: The order is known to be wrong; the text says why.
    """

    kind: ClassVar[str] = "pipeline"

    def __init__(self, *policies: Policy[Target_co, Extra_co], name: str | None = None) -> None:
        if not policies:
            raise TypeError("a pipeline needs at least one policy: Pipeline(Timeout(5), ...)")
        for policy in policies:
            if not isinstance(policy, Policy):
                raise TypeError(f"a pipeline is made of policies, not {policy!r}{_hint(policy)}")
        super().__init__(name)
        self._hold(policies)
        check_order(self._all)

    def _hold(self, policies: tuple[Policy[Target_co, Extra_co], ...]) -> None:
        self.policies = policies
        self._all = tuple(leaf for policy in policies for leaf in policy._leaves())

    @classmethod
    def _of_stack(cls, site: Site) -> Self:
        """The pipeline of stacked decorators, whose order was checked when they were put on."""
        pipeline = cls.__new__(cls)
        super(Pipeline, pipeline).__init__(site.name)
        pipeline._hold(site.policies)
        return pipeline

    @classmethod
    def standard(
        cls,
        name: str,
        *,
        on: On,
        attempts: int = 3,
        total_timeout: Duration = 30,
        attempt_timeout: Duration = 10,
        max_concurrent: int = 100,
        sync: Literal["thread", "deadline"] | None = None,
    ) -> Pipeline[Never, Never]:
        """Return what most outbound calls need: timeout, bulkhead, retry, breaker, timeout.

        Args:
            name: The pipeline's name, such as the backend's.
            on: The exceptions that are transient failures of the backend, as in `Retry`. The
                breaker counts the same ones. An attempt's timeout is retried in any case.
            attempts: The most attempts, the first included. 3 by default.
            total_timeout: Seconds for the whole call. 30 by default.
            attempt_timeout: Seconds for each attempt. 10 by default.
            max_concurrent: The most calls at a time. 100 by default.
            sync: How the timeouts act on sync code, see `Timeout`; with `"thread"` each
                attempt runs in a worker, and the total is a deadline that it respects.

        Raises:
            TypeError: A value is of the wrong type; or later, when sync code is decorated
                without `sync=`.
            ValueError: A value is out of its range.
        """
        total_sync: Literal["thread", "deadline"] | None = None if sync is None else "deadline"
        return Pipeline(
            Timeout(seconds(total_timeout, "total_timeout"), sync=total_sync),
            Bulkhead(max_concurrent),
            Retry(on=_or_timeout(on), attempts=count(attempts, "attempts")),
            CircuitBreaker(on=on),
            Timeout(seconds(attempt_timeout, "attempt_timeout"), sync=sync),
            name=name,
        )

    @property
    def repeats(self) -> bool:  # type: ignore[override]
        """Whether one call may become several attempts."""
        return any(policy.repeats for policy in self._all)

    def snapshot(self) -> PipelineSnapshot:
        """Return the states of all policies, nested pipelines opened."""
        found = tuple(policy.snapshot() for policy in self._all)
        return PipelineSnapshot(self.name, self.kind, found)

    def subscribe(self, listener: Listener) -> Unsubscribe:
        """Call `listener` with each event of the policies in it; see `resilient.subscribe`."""
        endings = [leaf.subscribe(listener) for leaf in dict.fromkeys(self._all)]

        def unsubscribe() -> None:
            for end in endings:
                end()

        return unsubscribe

    def wrap(self, inner: SyncCall[Any]) -> SyncCall[Any]:
        """Return `inner` protected; for plain functions."""
        chain: SyncCall[Any] = compose(self._all, inner, "wrap")
        return chain

    def awrap(self, inner: AsyncCall[Any]) -> AsyncCall[Any]:
        """Return `inner` protected; for coroutine functions."""
        chain: AsyncCall[Any] = compose(self._all, inner, "awrap")
        return chain

    def wrap_stream(self, inner: SyncStream) -> SyncStream:
        """Return `inner` protected; for generator functions."""
        chain: SyncStream = compose(self._all, inner, "wrap_stream")
        return chain

    def awrap_stream(self, inner: AsyncStream) -> AsyncStream:
        """Return `inner` protected; for asynchronous generator functions."""
        chain: AsyncStream = compose(self._all, inner, "awrap_stream")
        return chain

    def _leaves(self) -> tuple[Policy[Any, Any], ...]:
        return self._all

    def _pipeline_name(self) -> str | None:
        return self._name if self._named_by is None else None

    def _name_leaves(self, site: Site, *, alone: bool) -> None:
        self._take_name(site.name, site)
        for policy in self.policies:
            if isinstance(policy, Pipeline) and policy._name is not None:
                policy._name_leaves(Site(policy._name, "", ()), alone=False)
        name_in_order(self._all, site)

    def _idle(self) -> bool:
        return all(policy._idle() for policy in self._all)


def _hint(value: object) -> str:
    if isinstance(value, type):
        return "; call the class first"
    if isinstance(value, (list, tuple)):
        return "; write Pipeline(*policies)"
    if callable(value):
        return ": did you mean `@Pipeline(Timeout(5), ...)`?"
    return ""


def _or_timeout(on: On) -> On:
    """`on`, and a call that timed out."""
    if isinstance(on, (type, tuple)) or not callable(on):
        return (*classes(on, "on"), CallTimeoutError)
    predicate = on

    def matches(error: Exception) -> Answer:
        answer = predicate(error)
        if answer is None or answer is False:
            return isinstance(error, CallTimeoutError)
        return answer

    return matches


def pipeline_of(decorated: Any) -> Pipeline[Any, Any]:
    """Return the pipeline that protects `decorated`.

    Args:
        decorated: A function, or a bound method, that a policy has decorated.

    Raises:
        TypeError: No policy protects it.
    """
    found = getattr(decorated, "__func__", decorated)
    if type(found) is not Protected:
        raise TypeError(f"{decorated!r} is not protected by a policy")
    pipeline = found._self_pipeline
    if not isinstance(pipeline, Pipeline):
        site = found._self_site
        pipeline = Pipeline._of_stack(site)
        found._self_pipeline = pipeline
    return pipeline
