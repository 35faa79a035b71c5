"""What can be wrong with a scenario, said once, with the place."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class ScenarioError(ValueError):
    """A scenario cannot be run as it is written.

    Attributes:
        key: Where: the path of keys, as `backends.primary.capacity`; may be empty.
        text: What is wrong, and what to write.
        file: The scenario's file, when it was read from one.
        line: The line in it, when it is known.
    """

    def __init__(
        self, key: str, text: str, *, file: str | None = None, line: int | None = None
    ) -> None:
        super().__init__(key, text)
        self.key = key
        self.text = text
        self.file = file
        self.line = line

    def __str__(self) -> str:
        place = self.file or ""
        if place and self.line is not None:
            place += f":{self.line}"
        return ": ".join(part for part in (place, self.key, self.text) if part)


class NeverEnds(ScenarioError):
    """A scenario does not come to its end."""


@contextmanager
def inside(key: str) -> Iterator[None]:
    """Put `key` before the path of whatever error comes out of the block."""
    try:
        yield
    except ScenarioError as error:
        error.key = join(key, error.key)
        raise
    except (TypeError, ValueError) as error:
        # What a policy's own constructor says of a value.
        raise ScenarioError(key, str(error)) from error


def join(first: str, second: str) -> str:
    """Return two parts of a path as one."""
    if not first or not second:
        return first or second
    return first + second if second.startswith("[") else f"{first}.{second}"


def unknown(key: str, what: str, given: str, known: Iterable[str]) -> ScenarioError:
    """Return the error for a name that is none of `known`, with the nearest of them."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
    return ScenarioError(key, f"there is no {what} {given!r}; {hint}")
