"""What a refused client gets: a problem document, RFC 9457, that tells nothing of the inside."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from resilient.errors import CallTimeoutError, RejectedError, ResilienceError

Refusal = Mapping[str, Any] | Callable[[ResilienceError], Any] | None

_PROBLEM: Final = "application/problem+json"
# A wait beyond what the usual clients can store says no more than this one.
_LONGEST: Final = 86_400 * 365


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the middleware itself."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def line(self) -> str:
        """The status as a WSGI server wants it."""
        return f"{self.status} {HTTPStatus(self.status).phrase}"


class Refusals:
    """Makes the answers to requests that were refused or came too late.

    Args:
        refusal: More members of the problem document; or a function of the error that
            returns such members, or a pair of media type and body.
        expose: Whether the document tells the policy's name and the error's text.
    """

    __slots__ = ("_expose", "_refusal")

    def __init__(self, refusal: Refusal, *, expose: bool) -> None:
        if refusal is not None and not isinstance(refusal, Mapping) and not callable(refusal):
            raise TypeError(
                "refusal must be a mapping of members for the problem document, or a function "
                f"of the error, not {refusal!r}"
            )
        self._refusal = refusal
        self._expose = expose

    def answer(self, error: ResilienceError, *, head: bool, close: bool = False) -> Answer:
        """Answer 503 to a refusal and 504 to a timeout; no body goes out on HEAD."""
        status = 504 if isinstance(error, CallTimeoutError) else 503
        media_type, body = self._document(status, error)
        headers = [("content-type", media_type), ("content-length", str(len(body)))]
        if isinstance(error, RejectedError):
            headers.append(("retry-after", str(whole_seconds(error.retry_after))))
        if close:
            headers.append(("connection", "close"))
        return Answer(status, headers, b"" if head else body)

    def _document(self, status: int, error: ResilienceError) -> tuple[str, bytes]:
        members: dict[str, Any] = {"title": HTTPStatus(status).phrase, "status": status}
        if self._expose:
            members |= {"detail": str(error), "policy": getattr(error, "policy", "")}
        made = self._refusal(error) if callable(self._refusal) else self._refusal
        if isinstance(made, tuple):
            media_type, body = made
            return media_type, body.encode() if isinstance(body, str) else bytes(body)
        if made is not None:
            members |= made
        return _PROBLEM, json.dumps(members).encode()


def whole_seconds(wait: float | None) -> int:
    """Round a wait up to what `Retry-After` can say, at least 1."""
    if wait is None or not wait > 0:
        return 1
    return max(1, math.ceil(min(wait, _LONGEST)))


def shutting_down() -> RejectedError:
    """What a request meets that comes after the drain has begun."""
    return RejectedError("the service is shutting down", policy="drain")
