"""The pictures of the documentation show what the code does."""

from pathlib import Path

import pytest

from docs.pictures.__main__ import HERE, PICTURES


@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_fresh(name: str) -> None:
    """Each picture is drawn from the code; if this fails, run `python -m docs.pictures`."""
    assert (HERE / f"{name}.svg").read_text(encoding="utf-8") == PICTURES[name]()


def test_every_picture_is_used() -> None:
    """No picture is left that no page shows, and no page shows one that nothing draws."""
    drawn = {f"{name}.svg" for name in PICTURES}
    text = "".join(page.read_text(encoding="utf-8") for page in HERE.parent.rglob("*.md"))
    used = {name for name in drawn if f"pictures/{name}" in text}
    files = {Path(path).name for path in HERE.glob("*.svg")}
    assert used == files == drawn
