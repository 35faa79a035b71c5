"""Our one note on an exception (PEP 678): what was done about it before it came out."""

from __future__ import annotations

_PREFIX = "resilient: "


def note(error: BaseException, text: str) -> None:
    """Leave `text` on `error`, in place of a note of ours from an earlier raise.

    Built anew and not appended to, so that a copy of the error that shares its list of
    notes keeps its own.
    """
    try:
        earlier: list[str] = getattr(error, "__notes__", [])
        kept = [one for one in earlier if not (isinstance(one, str) and one.startswith(_PREFIX))]
        error.__notes__ = [*kept, _PREFIX + text]
    except (AttributeError, TypeError):
        # An exception may forbid new attributes; it then goes out without a note, which is
        # better than an error about a note in its place.
        return
