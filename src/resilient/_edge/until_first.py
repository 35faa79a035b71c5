"""Policies that act up to an answer's first chunk, and leave what follows alone.

A fallback cannot protect a generator, nor can a timeout run one in a worker: both would
have to act in its middle. Around an answer that is right: after its first chunk nothing can
take its place. So these go around the call of the application and the first chunk.
"""

from __future__ import annotations

from typing import Any

from resilient._call import Args, Call, Kwargs, SyncStream
from resilient._edge.wsgi_request import Request, Run
from resilient._policy import Policy
from resilient._runtime.streams import Started, relay, start


def compose_answer(leaves: tuple[Policy[Any, Any], ...], inner: SyncStream) -> SyncStream:
    """Nest `leaves`, outermost first, around the innermost place of a WSGI request."""
    chain = inner
    for index in range(len(leaves) - 1, -1, -1):
        leaf, outer = leaves[index], leaves[:index]
        if leaf.kind == "fallback" or getattr(leaf, "sync", None) == "thread":
            chain = _until_first(leaf, chain, outer)
        else:
            chain = leaf._compose("wrap_stream", chain, outer)
    return chain


def _until_first(
    leaf: Policy[Any, Any], inner: SyncStream, outer: tuple[Policy[Any, Any], ...]
) -> SyncStream:
    def first(args: Args, kwargs: Kwargs, call: Call) -> Started:
        return start(inner(args, kwargs, call), call.number)

    begin = leaf._compose("wrap", first, outer)

    def answer(args: Args, kwargs: Kwargs, call: Call) -> Any:
        return relay(lambda: _started(begin(args, kwargs, call), args, call))

    return answer


def _started(found: Any, args: Args, call: Call) -> Started:
    """The answer that has begun; or that of a fallback, from its beginning."""
    if isinstance(found, Started):
        return found
    request: Any = call.root
    return start(_stand_in(found, args, request), call.number)


def _stand_in(answer: Any, args: Args, request: Request) -> Any:
    """What a fallback has returned: a WSGI application, or the chunks of an answer."""
    application: Any = answer
    if callable(answer):
        request.run = Run(request)
        request.run.begin(application, args[0])
    elif hasattr(answer, "__iter__") and not isinstance(answer, (str, bytes)):
        request.run.answer(answer)
    else:
        raise TypeError(
            "a fallback around a WSGI application must return a WSGI application, such as a "
            f"response, or the chunks of an answer that it has started, not "
            f"{type(answer).__name__}"
        )
    yield from request.run.chunks()
