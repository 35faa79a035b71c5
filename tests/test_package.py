"""The package as it is installed: its names, its version, its marker, and what it imports."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

import resilient

HERE = Path(resilient.__file__).parent
# What the extras bring: none of it is needed by whoever does not ask for it.
OF_EXTRAS = ("aiohttp", "click", "httpx", "opentelemetry.sdk", "requests", "rich")
# What may need an extra, and is therefore imported by its user alone.
INTEGRATIONS = ("aiohttp", "asgi", "httpx", "requests", "wsgi")
COMMAND_LINE = ("__main__", "_cli")


def modules() -> list[str]:
    """Every module of the package, by its full name."""
    files = [path.relative_to(HERE.parent).with_suffix("") for path in HERE.rglob("*.py")]
    return sorted(".".join(file.parts).removesuffix(".__init__") for file in files)


def top(module: str) -> str:
    """The part of the package that a module belongs to."""
    return module.removeprefix("resilient").strip(".").partition(".")[0]


def imported_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after `statement`."""
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split())


def of_extras(loaded: set[str]) -> set[str]:
    """Those of the modules that only an extra brings."""
    return {name for name in loaded if any(f"{name}.".startswith(f"{one}.") for one in OF_EXTRAS)}


def test_the_public_names_are_sorted_and_can_be_imported() -> None:
    """`__all__` says what `from resilient import` finds, in order, with nothing twice."""
    assert resilient.__all__ == sorted(set(resilient.__all__))
    assert all(getattr(resilient, name) is not None for name in resilient.__all__)
    assert set(resilient.__all__) <= set(dir(resilient))


def test_nothing_public_is_left_out_of_the_list() -> None:
    """Whatever the package defines without an underscore is announced, or is a module."""
    public = {name for name in vars(resilient) if not name.startswith("_")}
    submodules = {name for name in public if f"resilient.{name}" in sys.modules}
    assert public - submodules - {"Any", "TYPE_CHECKING", "annotations"} <= set(resilient.__all__)


@pytest.mark.parametrize("name", modules())
def test_each_list_of_names_is_true(name: str) -> None:
    """A module's `__all__` is sorted, and has only what there is."""
    module = importlib.import_module(name)
    announced = getattr(module, "__all__", [])
    assert list(announced) == sorted(set(announced))
    assert all(hasattr(module, one) for one in announced)


def test_the_version_is_the_installed_one() -> None:
    """It is that of the distribution, and no second place has to be kept up to date."""
    assert resilient.__version__ == distribution("resilient-patterns").version
    assert "__version__" in dir(resilient)


def test_a_source_tree_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is then missing, as `hasattr` and `inspect.getmembers` understand it."""

    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    assert not hasattr(resilient, "__version__")


def test_an_unknown_name_is_refused() -> None:
    """In the words of an ordinary module."""
    with pytest.raises(AttributeError, match="module 'resilient' has no attribute 'Retries'"):
        resilient.Retries  # noqa: B018


def test_the_types_are_delivered() -> None:
    """Type checkers read annotations of an installed package only beside this marker."""
    assert (HERE / "py.typed").is_file()


def test_the_import_is_light() -> None:
    """No integration, no SDK, no command line: a service pays for what it uses."""
    loaded = imported_by("import resilient")
    assert not of_extras(loaded)
    assert not {top(name) for name in loaded if name.startswith("resilient.")} & {
        *INTEGRATIONS, *COMMAND_LINE, "chaos", "drill", "failover", "testing",
    }  # fmt: skip


def test_the_pools_are_loaded_when_they_are_asked_for() -> None:
    """The same class by both ways."""
    loaded = imported_by("import resilient; resilient.ActivePassive")
    assert "resilient.failover" in loaded
    from resilient import failover

    assert resilient.ActivePassive is failover.ActivePassive


@pytest.mark.parametrize("integration", INTEGRATIONS)
def test_an_integration_loads_what_it_is_for_and_no_other(integration: str) -> None:
    """The middleware needs nothing at all, each client its own library."""
    brought = imported_by(f"import {integration}") if integration in OF_EXTRAS else set()
    loaded = imported_by(f"import resilient.{integration}")
    assert of_extras(loaded) <= brought
    others = {top(name) for name in loaded if name.startswith("resilient.")} & set(INTEGRATIONS)
    assert others == {integration}


def test_the_rest_imports_no_integration() -> None:
    """They stand at the edge: everything else can be loaded without one of their libraries."""
    edge = {*INTEGRATIONS, *COMMAND_LINE, "_clients", "drill"}
    inner = [name for name in modules() if top(name) not in edge]
    loaded = imported_by(f"import {', '.join(inner)}")
    assert not of_extras(loaded)
    assert not {f"resilient.{one}" for one in INTEGRATIONS} & loaded
