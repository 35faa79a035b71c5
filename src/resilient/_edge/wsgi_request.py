"""One WSGI request on its way through the policies.

The policies go around a generator: its first step calls the application and takes the
answer's first chunk, each further step takes one more, and it ends with the last one. So
they hold for a streamed answer what they hold for any generator. The server gets `Response`,
which hands out the chunks; its `close()` ends the generator first, and the application's
iterable after it.

The server's `start_response` is not called before the first chunk is there: up to then an
answer can be dropped, and the application run again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from resilient._call import Args, Call, Kwargs
from resilient._core.verdict import FailedAnswer
from resilient._edge.inputs import Input, Kept
from resilient.errors import CallTimeoutError

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
App = Callable[[Environ, StartResponse], Iterable[bytes]]
Head = tuple[str, list[tuple[str, str]]]


class Request(Call):
    """One request and its answer; it is the record of the policies' call, too.

    Attributes:
        run: The run of the application whose answer counts.
        raised: What the runs of the application raised.
        kept: The request's body, if it may be needed again.
    """

    def __init__(
        self,
        app: App,
        environ: Environ,
        start_response: StartResponse,
        is_failure: Callable[[int], bool] | None,
    ) -> None:
        self.app = app
        self.run = Run(self)
        self.raised: tuple[BaseException, ...] = ()
        self.kept: Kept | None = None
        self._environ = environ
        self._start_response = start_response
        self._is_failure = is_failure
        self._write: Callable[[bytes], object] | None = None
        self._left: int | None = None
        self._stand_in: Run | None = None

    def again(self, limit: int) -> None:
        """Prepare for several runs: each gets an environ and an input of its own."""
        self.kept = Kept(self._environ.get("wsgi.input"), limit, self._too_long)

    def _too_long(self) -> None:
        self.unrepeatable = self.unrepeatable or "its body is longer than max_body"

    def begin_run(self, app: App, call: Call) -> Run:
        """Call the application."""
        environ = self._environ
        if self.kept is not None:
            environ = environ | {"wsgi.input": Input(self.kept)}
        self.run = run = Run(self)
        if call.on_abandon is not None:
            call.on_abandon.append(run.abandon)
        run.begin(app, environ)
        return run

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        """The `start_response` of a fallback, which answers in the application's place."""
        if self._stand_in is not self.run:
            # What a failed run has begun is not continued.
            self.run = self._stand_in = Run(self)
        return self.run.start_response(status, headers, exc_info)

    def commit(self) -> Callable[[bytes], object]:
        """Pass the head on to the server, once; from here on the answer stands."""
        if self._write is None:
            status, headers = self.run.head_or_raise()
            self.delivered = True
            self._left = _content_length(headers)
            self._write = self._start_response(status, headers)
        return self._write

    def restart(self, status: str, headers: Any, exc_info: Any) -> Any:
        """An error after the head has gone out: the server raises it."""
        return self._start_response(status, headers, exc_info)

    def count(self, chunk: bytes) -> bytes:
        """A chunk is on its way to the server."""
        if self._left is not None:
            self._left -= len(chunk)
        return chunk

    @property
    def complete(self) -> bool:
        """Whether all that the head has announced is out."""
        sent = self._left is not None and self._left <= 0
        return self.delivered and (sent or self.run.exhausted)

    def judge(self) -> None:
        """The application's answer is complete.

        Raises:
            FailedAnswer: Its status is a failure.
        """
        status = int(self.run.head_or_raise()[0][:3])
        bad = status >= 500 if self._is_failure is None else self._is_failure(status)
        if bad:
            raise FailedAnswer(f"an answer of {status}", status, delivered=True)


class Run:
    """One run of the application."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._head: Head | None = None
        self._iterable: Iterable[bytes] = ()
        # What is popped is called once, whoever comes first.
        self._closing: list[Callable[[], object]] = []
        self._abandoned = False
        self.exhausted = False

    def begin(self, app: App, environ: Environ) -> None:
        """Call the application."""
        self.answer(app(environ, self.start_response))

    def answer(self, iterable: Iterable[bytes]) -> None:
        """Answer by what the application, or a fallback, has returned."""
        self._iterable = iterable
        close = getattr(iterable, "close", None)
        if close is not None:
            self._closing.append(close)

    def chunks(self) -> Generator[bytes, None, None]:
        """Yield the answer's chunks; an answer that breaks off is closed at once."""
        try:
            chunks = iter(self._iterable)
            last = len(self._iterable) if isinstance(self._iterable, (list, tuple)) else None
            for number, chunk in enumerate(chunks, 1):
                if self._abandoned:
                    # Nobody waits for this any more: the worker closes what it has made.
                    self.close()
                    return
                self.head_or_raise()
                self.exhausted = number == last
                yield chunk
            self.head_or_raise()
            self.exhausted = True
        except BaseException:
            self.close()
            raise

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        """Keep the answer's head until the first chunk; see PEP 3333."""
        if exc_info:
            try:
                if self._current and self._request.delivered:
                    return self._request.restart(status, headers, exc_info)
            finally:
                exc_info = None
        elif self._head is not None:
            raise AssertionError("start_response was called again without exc_info")
        self._head = (status, headers)
        return self.write

    def write(self, data: bytes) -> None:
        """Send a chunk past the iterable, as old applications do; PEP 3333 allows it."""
        if self._current:
            request = self._request
            request.commit()(request.count(data))

    @property
    def _current(self) -> bool:
        return self._request.run is self and not self._abandoned

    def head_or_raise(self) -> Head:
        """The answer's head.

        Raises:
            AssertionError: The application has not called `start_response`.
        """
        if self._head is None:
            raise AssertionError("the application answered without calling start_response")
        return self._head

    def abandon(self, failed: bool) -> None:
        """The worker that this runs in is left behind: nothing of it counts any more."""
        self._abandoned = True

    def close(self) -> None:
        """Close the application's iterable, the first time."""
        try:
            close = self._closing.pop()
        except IndexError:
            return
        close()


def enter(args: Args, kwargs: Kwargs, call: Call) -> Generator[bytes, None, None]:
    """The innermost place of the policies: the application's answer, chunk by chunk."""
    call.entered = True
    request: Any = call.root
    try:
        run = request.begin_run(request.app, call)
        yield from run.chunks()
    except Exception as error:
        request.raised += (error,)
        raise
    request.judge()


class Response:
    """What the server iterates, and closes."""

    def __init__(
        self,
        request: Request,
        chunks: Iterator[bytes],
        first: bytes | None,
        over: Callable[[], object],
    ) -> None:
        self._request = request
        self._chunks: Iterator[bytes] = iter(()) if first is None else chunks
        self._first = first
        self._over = [over]

    def __iter__(self) -> Response:
        return self

    def __next__(self) -> bytes:
        first, self._first = self._first, None
        return self._request.count(self._next() if first is None else first)

    def _next(self) -> bytes:
        request = self._request
        try:
            return next(self._chunks)
        except FailedAnswer:
            # It counts as a failure, and has been passed on.
            raise StopIteration from None
        except CallTimeoutError as error:
            # All of the answer is out: it came late, and is kept.
            if request.complete and not any(error is one for one in request.raised):
                raise StopIteration from None
            raise

    def close(self) -> None:
        """End the policies' call if it has not ended, and close the application's iterable."""
        try:
            close = getattr(self._chunks, "close", None)
            if close is not None:
                close()
        finally:
            try:
                self._request.run.close()
            finally:
                self._request.raised = ()
                if self._over:
                    self._over.pop()()


def _content_length(headers: Any) -> int | None:
    for name, value in headers:
        if name.lower() == "content-length" and value.isascii() and value.isdigit():
            return int(value)
    return None
