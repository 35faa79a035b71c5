"""WSGI middleware: policies around an application, for shedding load at the door.

::

    from resilient import Bulkhead
    from resilient.wsgi import ResilienceMiddleware

    app.wsgi_app = ResilienceMiddleware(app.wsgi_app, Bulkhead(100), exclude=["/healthz"])

It is plain PEP 3333: it goes around any application, of Flask, Django or by hand.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Generator, Hashable, Iterable
from typing import Any

from resilient import _observe
from resilient._core.durations import Duration
from resilient._core.durations import seconds as seconds_of
from resilient._core.verdict import FailedAnswer
from resilient._edge import deadlines
from resilient._edge.options import (
    Paths,
    body_limit,
    header_name,
    inbound_site,
    is_failure,
    keyed,
    may_repeat,
    why_not_again,
)
from resilient._edge.refusals import Refusal, Refusals, shutting_down
from resilient._edge.until_first import compose_answer
from resilient._edge.wsgi_request import App, Environ, Request, Response, StartResponse, enter
from resilient._policy import Policy
from resilient._runtime import modes
from resilient.errors import CallTimeoutError, RejectedError, ResilienceError
from resilient.timeout import Timeout

__all__ = ["ResilienceMiddleware"]


class ResilienceMiddleware:
    """Put policies around each request of a WSGI application.

    A refused request is answered by 503 with `Retry-After`, one whose time was up by 504,
    both as `application/problem+json` that tells nothing of the inside. The policies' call
    ends with the last chunk of the answer, or when the server closes it: a permit is held
    until then. After the first chunk nothing is retried or replaced: an error goes to the
    server, which aborts the answer.

    An answer of 500 and above counts as a failure for a circuit breaker, and is passed on;
    only an exception before the first chunk may be retried, for idempotent methods and a
    request body of at most `max_body` bytes. A server that closes the answer early, since
    the client has hung up, is neutral.

    A `Timeout` needs its choice of `sync=`: with `"thread"` the application runs in a worker
    up to its first chunk, and is left behind when the time is up; the chunks that follow
    have no deadline. With `"deadline"` it runs in place, and `remaining()` tells it the time.

    A fallback may answer: its value, or what `using=` returns, is a WSGI application, such
    as a response; `using=` is called with the outcome, environ and start_response, and may
    return the chunks of an answer that it has started.

    Args:
        app: The application to protect.
        policy: A policy or a `Pipeline`. A hedge or a pool makes no sense here.
        exclude: Paths that are not protected, such as health checks, compared exactly.
        include: The only paths that are protected; `None`, the default, for all.
        key: Called with the environ, names the key of each `PerKey` in the policy, instead
            of its own function, which would see environ and start_response.
        failure: A predicate `(status) -> bool`: which statuses are failures. By default
            those of 500 and above.
        refusal: Members to add to the problem document, as a mapping; or a function of the
            error that returns such a mapping, or a pair of media type and body.
        expose: Whether the problem document tells the policy's name and the error's text.
            They are not told by default.
        max_body: How many bytes of a request's body are kept to run the application again,
            1 MiB by default.
        deadline_header: The name of a request header that says how many seconds the caller
            will wait, as a decimal number; `remaining()` tells the application no more than
            that. Values that are not positive numbers are ignored, those over a day mean a
            day. By default no header is read.

    Raises:
        TypeError: A value is of the wrong type, or the policy makes no sense here.
        ValueError: A value is out of its range.
    """

    def __init__(
        self,
        app: App,
        policy: Policy[Any, Any],
        *,
        exclude: Iterable[str] = (),
        include: Iterable[str] | None = None,
        key: Callable[[Environ], Hashable] | None = None,
        failure: Callable[[int], bool] | None = None,
        refusal: Refusal = None,
        expose: bool = False,
        max_body: int = 1 << 20,
        deadline_header: str | None = None,
    ) -> None:
        self.app = app
        self.policy = policy
        self._key = _of_environ(keyed(policy, key))
        self._paths = Paths(exclude, include)
        self._failure = is_failure(failure)
        self._refusals = Refusals(refusal, expose=expose)
        self._max_body = body_limit(max_body)
        header = header_name(deadline_header)
        self._header = None if header is None else f"HTTP_{header.upper().replace('-', '_')}"
        self._draining = False
        # As many as are in flight: appending and popping is atomic, counting is not.
        self._running: list[None] = []
        self._idle = threading.Event()
        self._site = site = inbound_site(policy, app)
        self._again = may_repeat(site.policies)
        chain = compose_answer(site.policies, enter)
        self._begin = _observe.observer.around_stream(chain, site)
        policy._name_leaves(site, alone=True)
        self._timeouts = functools.lru_cache(maxsize=256)(_deadline)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        if modes.passthrough or not (self._paths.all or self._paths.covers(_path(environ))):
            return self.app(environ, start_response)
        # First it counts, then it looks: a drain that begins meanwhile waits for it.
        self._running.append(None)
        try:
            if self._draining:
                answer = self._refuse(shutting_down(), environ, start_response)
                self._over()
                return answer
            return self._serve(environ, start_response)
        except BaseException:
            self._over()
            raise

    def drain(self, timeout: Duration | None = None) -> bool:
        """Refuse new requests from now on, and wait until those in flight are answered.

        New ones get 503 with `Connection: close`, where the server lets an application say so.

        Args:
            timeout: The most seconds to wait, 0 or more; `None` for no bound.

        Returns:
            Whether nothing is in flight any more.
        """
        limit = None if timeout is None else seconds_of(timeout, "timeout", zero=True)
        self._draining = True
        return not self._running or self._idle.wait(limit)

    def _serve(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        request = self._request(environ, start_response)
        first: bytes | None = None
        chunks = self._limited(environ)((environ, request.start_response), {}, request)
        try:
            first = next(chunks)
        except (StopIteration, FailedAnswer):
            # An answer without a chunk; or one that counts as a failure, and is passed on.
            pass
        except (RejectedError, CallTimeoutError) as error:
            if request.delivered or any(error is one for one in request.raised):
                raise
            answer = self._refuse(error, environ, start_response)
            self._over()
            return answer
        finally:
            # They hold their frames, which hold the request.
            request.raised = ()
        try:
            request.commit()
        except BaseException:
            # The server has got nothing that it could close.
            chunks.close()
            request.run.close()
            raise
        return Response(request, chunks, first, self._over)

    def _request(self, environ: Environ, start_response: StartResponse) -> Request:
        request = Request(self.app, environ, start_response, self._failure)
        request.site = self._site
        request.key = self._key
        if self._again:
            request.unrepeatable = why_not_again(environ["REQUEST_METHOD"])
            request.again(self._max_body)
        return request

    def _limited(self, environ: Environ) -> Callable[..., Generator[bytes, None, None]]:
        """The policies, within the time that the request's header gives."""
        value = None if self._header is None else environ.get(self._header)
        seconds = None if value is None else deadlines.parse(value)
        if seconds is None:
            return self._begin
        return self._timeouts(deadlines.rounded(seconds)).wrap_stream(self._begin)

    def _refuse(
        self, error: ResilienceError, environ: Environ, start_response: StartResponse
    ) -> list[bytes]:
        """Answer a request that is not served, or not in time."""
        head = environ["REQUEST_METHOD"] == "HEAD"
        close = self._draining and environ.get("SERVER_PROTOCOL", "HTTP/1.1").startswith("HTTP/1")
        answer = self._refusals.answer(error, head=head, close=close)
        try:
            start_response(answer.line, answer.headers)
        except AssertionError:
            if not close:
                raise
            # PEP 3333 leaves that header to the server, and some insist on it.
            answer = self._refusals.answer(error, head=head)
            start_response(answer.line, answer.headers, sys.exc_info())
        return [answer.body]

    def _over(self) -> None:
        self._running.pop()
        if self._draining and not self._running:
            self._idle.set()


def _path(environ: Environ) -> str:
    """The request's path as text; PEP 3333 passes its bytes as if they were Latin-1."""
    path: str = environ.get("PATH_INFO") or "/"
    return path.encode("latin-1").decode("utf-8", "replace")


def _of_environ(key: Callable[[Environ], Hashable] | None) -> Callable[..., Hashable] | None:
    """The key as a `PerKey` asks for it, with both arguments of the application."""
    if key is None:
        return None
    return lambda environ, start_response: key(environ)


def _deadline(seconds: float) -> Timeout:
    return Timeout(seconds, sync="deadline", name="deadline")
