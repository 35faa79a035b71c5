"""The four clients of the demo: bare and protected, sync and async, under one load."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
from opentelemetry import trace

from resilient import (
    Bulkhead,
    CallTimeoutError,
    CircuitBreaker,
    Pipeline,
    RejectedError,
    Retry,
    Timeout,
    attempt_number,
    exponential,
    remaining,
)

TIMEOUT = 5.0
TRACER = trace.get_tracer("resilient.demo")


class BadAnswer(Exception):
    """The server answered, but not with what was asked for."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A call that is over: when it was made and when it ended, in seconds of one clock."""

    started: float
    at: float
    answered: bool
    refused: bool

    @property
    def took(self) -> float:
        """Seconds from the call to its end, with all its attempts and waits."""
        return self.at - self.started


@dataclass
class Lane:
    """What one client has seen. Threads append to the list, which is all they share."""

    name: str
    protected: bool
    ended: list[Ended] = field(default_factory=list)

    def end(self, started: float, error: BaseException | None) -> None:
        """Write down how a call ended, now."""
        refused = isinstance(error, RejectedError)
        self.ended.append(Ended(started, time.monotonic(), error is None, refused))


def pipeline(name: str) -> Pipeline[Any, Any]:
    """What the protected clients call through; on sync code the deadlines are read."""
    return Pipeline(
        Timeout(4, sync="deadline"),
        Retry(
            on=(httpx.TransportError, BadAnswer, CallTimeoutError),
            attempts=5,
            backoff=exponential(0.05, maximum=1),
        ),
        CircuitBreaker(
            on=(httpx.TransportError, BadAnswer),
            window_calls=20,
            open_for=exponential(0.1, maximum=0.3, jitter="equal"),
        ),
        Bulkhead(100),
        Timeout(0.4, sync="deadline"),
        name=name,
    )


def _checked(response: httpx.Response) -> None:
    if response.status_code != httpx.codes.OK:
        raise BadAnswer(response.status_code)


def sync_call(client: httpx.Client, name: str) -> Callable[[], None]:
    """One GET by the sync client, which is told the time that is left."""

    def get() -> None:
        with TRACER.start_as_current_span("GET", attributes={"attempt": attempt_number()}):
            _checked(client.get(f"/{name}", timeout=remaining(TIMEOUT)))

    return get


def async_call(client: httpx.AsyncClient, name: str) -> Callable[[], Any]:
    """One GET by the async client, which is cancelled when the time is up."""

    async def get() -> None:
        with TRACER.start_as_current_span("GET", attributes={"attempt": attempt_number()}):
            _checked(await client.get(f"/{name}"))

    return get


def drive_sync(lane: Lane, url: str, times: list[float], stop: threading.Event) -> None:
    """Make one call at each of `times`, in threads, whatever became of those before."""
    limits = httpx.Limits(max_connections=200)
    with httpx.Client(base_url=url, timeout=TIMEOUT, limits=limits) as client:
        call = sync_call(client, lane.name)
        protected = pipeline(lane.name)(call) if lane.protected else call

        def one() -> None:
            started = time.monotonic()
            error = None
            try:
                protected()
            except (httpx.HTTPError, BadAnswer, RejectedError, CallTimeoutError) as failure:
                error = failure
            lane.end(started, error)

        with ThreadPoolExecutor(200) as pool:
            for at in times:
                if stop.wait(max(0.0, at - time.monotonic())):
                    return
                pool.submit(one)


def drive_async(lane: Lane, url: str, times: list[float], stop: threading.Event) -> None:
    """The same, as tasks of one event loop."""

    async def main() -> None:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits) as client:
            call = async_call(client, lane.name)
            protected = pipeline(lane.name)(call) if lane.protected else call

            async def one() -> None:
                started = time.monotonic()
                error = None
                try:
                    await protected()
                except (httpx.HTTPError, BadAnswer, RejectedError, CallTimeoutError) as failure:
                    error = failure
                lane.end(started, error)

            async with asyncio.TaskGroup() as tasks:
                for at in times:
                    await asyncio.sleep(max(0.0, at - time.monotonic()))
                    if stop.is_set():
                        return
                    tasks.create_task(one())

    asyncio.run(main())
