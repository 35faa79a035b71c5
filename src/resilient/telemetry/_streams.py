"""A generator's call: its span is current while it runs, and never while its consumer does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from types import TracebackType
from typing import Any

from opentelemetry import context as otel
from opentelemetry.context import Context

from resilient._runtime.streams import arelay, astart, relay, start
from resilient.telemetry._calls import CallRecord
from resilient.telemetry._scope import Scope


def observe_stream(
    open_: Callable[[], Generator[Any, Any, Any]], record: CallRecord
) -> Generator[Any, Any, Any]:
    """Yield what `open_()` yields, and tell of it in `record`."""
    steps = _Steps(record)
    return relay(lambda: start(_Stepped(open_(), steps)), _Guard(record, steps))


def aobserve_stream(
    open_: Callable[[], AsyncGenerator[Any, Any]], record: CallRecord
) -> AsyncGenerator[Any, Any]:
    """Yield what `open_()` yields, and tell of it in `record`."""
    steps = _Steps(record)
    return arelay(lambda: astart(_AsyncStepped(open_(), steps)), _Guard(record, steps))


class _Guard:
    """Ends the record with the generator. A consumer that closes it is no error."""

    def __init__(self, record: CallRecord, steps: _Steps) -> None:
        self._record = record
        self._steps = steps

    def __enter__(self) -> None:
        """Nothing is attached until the first step."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # As a step: an attempt that is still open is to leave the generator's context.
        with self._steps:
            self._record.end(None if isinstance(error, GeneratorExit) else error)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)


class _Steps:
    """Attaches the generator's context for a step, and keeps what the step made of it."""

    def __init__(self, record: CallRecord) -> None:
        self._record = record
        self._inside: Context | None = record.inside
        self._scope: Scope | None = None
        self._first = True

    def __enter__(self) -> None:
        if self._inside is None:
            return
        self._scope = Scope(self._inside)
        if self._first:
            self._first = False
            self._record.enter_first()

    def __exit__(self, *exc: object) -> None:
        if self._scope is not None:
            # An attempt that began in this step, and goes on, is current in the next one.
            self._inside = otel.get_current()
            self._scope.leave()
            self._scope = None


class _Stepped(Generator[Any, Any, Any]):
    """A generator whose every step runs in its own context, its closing too."""

    def __init__(self, generator: Generator[Any, Any, Any], steps: _Steps) -> None:
        self._generator = generator
        self._steps = steps

    def send(self, value: Any) -> Any:
        with self._steps:
            return self._generator.send(value)

    def throw(self, error: Any, *rest: Any) -> Any:
        with self._steps:
            return self._generator.throw(error, *rest)

    def close(self) -> None:
        with self._steps:
            self._generator.close()


class _AsyncStepped(AsyncGenerator[Any, Any]):
    """An asynchronous generator whose every step runs in its own context."""

    def __init__(self, generator: AsyncGenerator[Any, Any], steps: _Steps) -> None:
        self._generator = generator
        self._steps = steps

    async def asend(self, value: Any) -> Any:
        with self._steps:
            return await self._generator.asend(value)

    async def athrow(self, error: Any, *rest: Any) -> Any:
        with self._steps:
            return await self._generator.athrow(error, *rest)

    async def aclose(self) -> None:
        with self._steps:
            await self._generator.aclose()
