"""Finding scenarios: a file of Python or TOML, or a ready one by its name."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from types import CodeType
from typing import Any, Final

from resilient.drill.errors import ScenarioError, unknown
from resilient.drill.scenario import Scenario, Study
from resilient.drill.toml_file import read_toml

_PACKAGE: Final = "resilient.drill.scenarios"
_WANTED: Final = "define `scenario`: a Scenario or a Study, or a function that returns one"


class UserCodeError(Exception):
    """Code that a scenario brings along has failed; `__cause__` is what it raised."""


def ready() -> dict[str, str]:
    """The names of the ready scenarios, and what each shows."""
    names = sorted(
        entry.name.removesuffix(".py")
        for entry in files(_PACKAGE).iterdir()
        if entry.name.endswith(".py") and not entry.name.startswith("_")
    )
    found = {}
    for name in names:
        text = importlib.import_module(f"{_PACKAGE}.{name}").__doc__ or ""
        found[name.replace("_", "-")] = text.strip().splitlines()[0].rstrip(".")
    return found


@contextmanager
def opened(given: str) -> Iterator[Study]:
    """Give the study that a file describes, or that is ready under a name.

    Modules that it imports from its own directory, or from the current one, are forgotten
    afterwards, so that the next scenario finds its policies as new.

    Raises:
        ScenarioError: There is no such thing, or it is not a scenario; it says where.
        UserCodeError: Its code raised something.
    """
    path = Path(given)
    if not path.suffix and (given in ready() or not path.exists()):
        yield _ready(given)
        return
    with _imports_from(path.resolve().parent, Path.cwd()):
        yield _read(path)


def _ready(name: str) -> Study:
    known = ready()
    if name not in known:
        error = unknown("", "file or ready scenario", name, known)
        raise error
    module = importlib.import_module(f"{_PACKAGE}.{name.replace('-', '_')}")
    study: Study = module.scenario()
    return study


def _read(path: Path) -> Study:
    if path.is_dir():
        raise ScenarioError("", "is a directory, not a scenario", file=str(path))
    if not path.is_file():
        raise ScenarioError("", "there is no such file", file=str(path))
    try:
        if path.suffix == ".toml":
            return _study(read_toml(path), path)
        if path.suffix == ".py":
            return _read_python(path)
    except ScenarioError as error:
        error.file = error.file or str(path)
        raise
    except OSError as error:
        raise ScenarioError("", str(error), file=str(path)) from error
    except Exception as error:
        raise UserCodeError from error
    raise ScenarioError("", "must end in .py or .toml", file=str(path))


def _read_python(path: Path) -> Study:
    code = _compiled(path)
    namespace: dict[str, Any] = {"__name__": "scenario", "__file__": str(path)}
    try:
        exec(code, namespace)
        found = namespace.get("scenario")
        if callable(found) and not isinstance(found, (Scenario, Study)):
            found = found()
        return _study(found, path)
    except ScenarioError as error:
        error.file, error.line = str(path), error.line or _line_in(error, path)
        raise
    except OSError as error:
        raise UserCodeError from error


def _compiled(path: Path) -> CodeType:
    try:
        return compile(path.read_bytes(), str(path), "exec")
    except SyntaxError as error:
        text = f"this is not Python: {error.msg}"
        raise ScenarioError("", text, file=str(path), line=error.lineno) from error


def _study(found: Any, path: Path) -> Study:
    if isinstance(found, Study):
        return found
    if isinstance(found, Scenario):
        return Study(found.name or path.stem, {found.name or path.stem: found})
    if found is None:
        raise ScenarioError("scenario", f"is missing: {_WANTED}", file=str(path))
    raise ScenarioError("scenario", f"is {found!r:.80}: {_WANTED}", file=str(path))


def _line_in(error: BaseException, path: Path) -> int | None:
    """The last line of the file that the error came through."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    return lines[-1] if lines else None


@contextmanager
def _imports_from(*places: Path) -> Iterator[None]:
    before, path = set(sys.modules), list(sys.path)
    sys.path[:0] = [str(place) for place in dict.fromkeys(places)]
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            if _is_from(sys.modules[name], places):
                del sys.modules[name]


def _is_from(module: Any, places: tuple[Path, ...]) -> bool:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or "site-packages" in file:
        return False
    if module.__name__.partition(".")[0] == "resilient":
        return False
    return any(Path(file).is_relative_to(place) for place in places)
