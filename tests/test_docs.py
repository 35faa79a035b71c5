"""Every Python snippet of the README and of the docs runs, page by page, from top to bottom.

No snippet really waits: a page runs on virtual time, unless it enters that itself.
"""

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser

from resilient.testing import virtual_time

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^[ \t>]*(?:`{3,}|~{3,})[ \t]*(?:py|python|python3|pycon)\b", re.MULTILINE)
HIDDEN = re.compile(r"^[ \t]*<!--+\s*(?:invisible-)?code(?:-block)?:\s*python\b", re.MULTILINE)

# What a page that runs on virtual time by itself calls.
ENTER_VIRTUAL_TIME = ("virtual_time(", "resilient.drill")

READER = Sybil(parsers=[PythonCodeBlockParser()])


def relative(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_snippets_of_a_page_run_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snippets of one page share their names, as a reader who types them in would."""
    monkeypatch.chdir(tmp_path)
    document = Document.parse(str(page), *READER.parsers)
    document.namespace["__name__"] = f"docs.{page.stem}"
    examples = list(document.examples())
    own = any(entry in str(one.parsed) for one in examples for entry in ENTER_VIRTUAL_TIME)
    with nullcontext() if own else virtual_time(seed=0):
        for example in examples:
            example.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_no_snippet_is_left_out(page: Path) -> None:
    """A fence that the reader does not recognise would pass without having run."""
    text = page.read_text(encoding="utf-8")
    document = Document.parse(str(page), *READER.parsers)
    seen = len(list(document.examples()))
    # A session with prompts counts once for each of its prompts.
    prompts = len(re.findall(r"^[ \t]*>>> ", text, re.MULTILINE))
    written = len(FENCE.findall(text)) + len(HIDDEN.findall(text))
    assert written <= seen <= written + prompts, f"{written} snippets written, {seen} read"
