"""One ASGI request on its way through the policies, and the rules of its messages.

The policies' call is the time from admission to the last message of the answer. It can end
in four ways, whichever comes first: the last message has gone out; the application raised,
or returned without having finished; the application was told that the client has gone; the
policies gave up. What the application does after that is its own: background tasks run
outside the policies.

The application runs in the server's own task, and the policies beside it; see `steps`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any, Final

from resilient._call import Call
from resilient._core.verdict import FailedAnswer
from resilient._edge.steps import Steps

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# How far an answer is.
FRESH: Final = 0  # nothing has been sent
BEGUN: Final = 1  # the head has been passed on
TRAILED: Final = 2  # so it has, and trailers will come after the body
COMPLETE: Final = 3  # the last message has been passed on
GONE: Final = 4  # the client has hung up before that, and the application knows

_DISCONNECT: Final = "http.disconnect"
# The messages that carry the answer after its head; all others are not the middleware's.
_PARTS: Final = frozenset(
    f"http.response.{part}" for part in ("body", "zerocopysend", "pathsend", "trailers")
)


class ClientGone(BaseException):
    """The client has hung up: neutral for every policy, and never seen outside them."""


class Body:
    """The request body's messages, kept so that a further run can read them again."""

    __slots__ = ("_left", "messages", "position")

    def __init__(self, limit: int) -> None:
        self._left = limit
        self.messages: list[Message] = []
        self.position = 0

    def keep(self, message: Message) -> bool:
        """Keep a message; false, and nothing is kept any more, if that is too much."""
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            self.messages.clear()
            self.position = 0
            return False
        self.messages.append(message)
        self.position += 1
        return True

    def replay(self) -> Message | None:
        """The next message that an earlier run has read, if there is one."""
        if self.position == len(self.messages):
            return None
        self.position += 1
        return self.messages[self.position - 1]


class Exchange(Call):
    """One request and its answer; it is the record of the policies' call, too.

    Whoever makes one sets the attributes that have no default: it saves a call per request.

    Attributes:
        chain: The policies' coroutine, as what is awaited of it, step by step.
        open: Whether the policies' call waits for the application.
        state: How far the answer is.
        status: The answer's status, 0 before it has begun.
        run: The run of the application whose messages count; `None` if there is but one.
        body: What was read of the request, where the application may be run again.
        is_failure: Judges the status; by default 500 and above are failures.
        raised: What the runs of the application raised.
    """

    # Slots are read and written faster than other attributes, and each of these is.
    __slots__ = ("_receive", "_send", "abandoned", "chain", "delivered", "entered", "open", "site",
                 "state", "status")  # fmt: skip

    _receive: Receive
    _send: Send
    chain: Steps | None
    open: bool
    state: int
    status: int
    run: object = None
    body: Body
    is_failure: Callable[[int], bool] | None = None
    raised: tuple[BaseException, ...] = ()

    async def receive(self) -> Message:
        """Receive for the application: it learns here that the client has gone."""
        if self.state == GONE:
            return {"type": _DISCONNECT}
        message = await self._receive()
        if message["type"] == _DISCONNECT and self.state != COMPLETE:
            self.hang_up()
        return message

    async def send(self, message: Message) -> None:
        """Send for the application: legal sequences only, and nothing to a client that left.

        Raises:
            RuntimeError: The message cannot come after those before it.
        """
        kind = message["type"]
        last = False
        # Written out for the two messages that every answer has: this is done for each.
        if kind == "http.response.start" and self.state == FRESH:
            self.delivered = True
            self.status = message["status"]
            self.state = TRAILED if message.get("trailers") else BEGUN
        elif kind == "http.response.body" and self.state == BEGUN:
            if "more_body" not in message or not message["more_body"]:
                self.state = COMPLETE
                last = True
        elif self.state == GONE:
            return
        else:
            last = self._other(kind, message)
        try:
            await self._send(message)
        except OSError:
            # How a server says that the client is gone. The application is told by it.
            self.hang_up()
            raise
        if last and self.open:
            if type(self) is Exchange and self.status < 500:
                # As `answered`, for the usual way, and without an exception for its end.
                self.open = False
                for _ in self.chain:  # type: ignore[union-attr]
                    raise RuntimeError("a policy waits on its way out, after the answer")
                self.chain = None
            else:
                self.answered()

    def _other(self, kind: str, message: Message) -> bool:
        """Whether this message ends the answer: one of the rarer ones, or out of turn."""
        if kind == "http.response.start":
            raise RuntimeError("http.response.start was sent twice: the answer has begun")
        if kind not in _PARTS:
            return False
        if self.state == FRESH:
            raise RuntimeError(f"{kind} was sent before http.response.start")
        if self.state == COMPLETE:
            raise RuntimeError(f"{kind} was sent after the answer was complete")
        if kind == "http.response.trailers":
            last = not message.get("more_trailers", False)
        else:
            more = kind != "http.response.pathsend" and message.get("more_body", False)
            last = not more and self.state != TRAILED
        if last:
            self.state = COMPLETE
        return last

    def hang_up(self) -> None:
        """The client has gone before the last message: that says nothing of the service."""
        self.state = GONE
        if self.open:
            self.resume(ClientGone())

    def answered(self) -> None:
        """The last message has gone out."""
        status, judge = self.status, self.is_failure
        if status >= 500 if judge is None else judge(status):
            self.resume(FailedAnswer(f"an answer of {status}", status, delivered=True))
        else:
            self.resume(None)

    def ended(self, error: BaseException | None) -> BaseException | None:
        """The application ended before its answer did: what to tell the policies of it.

        `None` if the answer was complete after all: a cancellation came while the last
        message went out, and the application swallowed it.
        """
        if error is None and self.state == COMPLETE:
            self.answered()
            return None
        self.open = False
        if error is None:
            return FailedAnswer("an incomplete answer", self.status, delivered=True)
        self.raised += (error,)
        if self.delivered and isinstance(error, Exception):
            return FailedAnswer("an aborted answer", self.status, delivered=True, error=error)
        return error

    def resume(self, outcome: BaseException | None) -> None:
        """End the policies' call while the application goes on."""
        self.open = False
        chain, self.chain = self.chain, None
        assert chain is not None  # it is open
        try:
            # Nothing of ours waits on the way out of a call that is not made again.
            if outcome is None:
                chain.send(None)
            else:
                chain.throw(outcome)
        except (StopIteration, FailedAnswer, ClientGone):
            return

    def begin_run(self) -> tuple[Receive, Send]:
        """Start a run of the application that may not be the last: its messages are its own."""
        self.run = run = object()
        self.body.position = 0
        return partial(self._receive_in, run), partial(self._send_in, run)

    async def _receive_in(self, run: object) -> Message:
        """Receive in one of several runs: what an earlier one has read comes again."""
        if run is not self.run or self.state == GONE:
            return {"type": _DISCONNECT}
        earlier = self.body.replay()
        if earlier is not None:
            return earlier
        message = await self.receive()
        if message["type"] == _DISCONNECT:
            return message
        if run is not self.run:
            # This run is over, but was still waiting: the message is the present run's.
            self.body.messages.append(message)
            return {"type": _DISCONNECT}
        if not self.body.keep(message):
            self.unrepeatable = self.unrepeatable or "its body is longer than max_body"
        return message

    async def _send_in(self, run: object, message: Message) -> None:
        """Send in one of several runs: nobody listens to one that is over."""
        if run is self.run:
            await self.send(message)


class JudgedExchange(Exchange):
    """A request whose answer is judged by the user's own predicate."""
