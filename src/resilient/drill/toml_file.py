"""Scenarios written in TOML."""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from resilient._policy import Policy
from resilient.drill import checks
from resilient.drill.backend import Backend
from resilient.drill.described import build, pipeline
from resilient.drill.errors import ScenarioError, unknown
from resilient.drill.faults import FAULTS, Fault
from resilient.drill.load import Load
from resilient.drill.scenario import Scenario
from resilient.drill.wiring import policy_of

_KEYS: Final = ("name", "seconds", "seed", "drain", "objectives", "load", "backends", "faults",
                "policy")  # fmt: skip


def read_toml(path: Path) -> Scenario:
    """Return the scenario that a TOML file describes.

    Raises:
        ScenarioError: It is not TOML, or does not describe a scenario.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError("", f"this is not TOML: {error}") from error
    for key in document:
        if key not in _KEYS:
            raise unknown(key, "key", key, _KEYS)
    for key in ("load", "backends", "policy", "seconds"):
        if key not in document:
            raise ScenarioError(key, "is missing")
    return _scenario(document, path.stem)


def _scenario(document: dict[str, Any], stem: str) -> Scenario:
    name = checks.words(document.get("name", stem), "name")
    backends = _backends(document["backends"])
    options = {key: document[key] for key in ("seed", "drain") if key in document}
    return Scenario(
        name=name,
        seconds=document["seconds"],
        load=_load(document["load"]),
        backends=backends.values(),
        policy=_policy(document["policy"], name, backends),
        faults=_faults(document.get("faults", [])),
        objectives=_strings(document.get("objectives", [])),
        **options,
    )


def _load(given: Any) -> Load:
    table = given if isinstance(given, dict) else {"rate": given}
    load: Load = build(Load, table, "load")
    return load


def _backends(given: Any) -> dict[str, Backend]:
    found = {}
    for name, table in checks.table(given, "backends").items():
        key = f"backends.{name}"
        options = dict(checks.table(table, key))
        if "error" in options:
            options["error"] = _error(options["error"], f"{key}.error")
        found[name] = build(Backend, options, key, {"name": name})
    return found


def _error(given: Any, key: str) -> Callable[[str], Exception]:
    """An exception class by its name: a built-in one, or `module:name`."""
    name = checks.words(given, key)
    found = named(name, key) if ":" in name else getattr(builtins, name, None)
    if not (isinstance(found, type) and issubclass(found, Exception)):
        raise ScenarioError(
            key, f'must name an exception class, as "httpx:ReadError", not {name!r}'
        )
    return found


def _faults(given: Any) -> list[Fault]:
    if not isinstance(given, list):
        raise ScenarioError("faults", "must be tables, written as [[faults]]")
    found = []
    for index, one in enumerate(given):
        key = f"faults[{index}]"
        options = dict(checks.table(one, key))
        kind = options.pop("kind", None)
        if kind not in FAULTS:
            raise unknown(f"{key}.kind", "fault", str(kind), FAULTS)
        if "backend" in options:
            options["backends"] = options.pop("backend")
        found.append(build(FAULTS[kind], options, key))
    return found


def _strings(given: Any) -> list[str]:
    if not isinstance(given, list):
        raise ScenarioError("objectives", "must be a list of strings")
    return given


def _policy(given: Any, name: str, backends: dict[str, Backend]) -> Policy[Any, Any]:
    if isinstance(given, str):
        return policy_of(named(given, "policy"), "policy")
    if isinstance(given, dict):
        given = [given]
    return pipeline(given, "policy", name, backends)


def named(text: str, key: str) -> Any:
    """Return what `module:name` names.

    Raises:
        ScenarioError: There is no such module, or no such name in it. What the module's own
            code raises goes through.
    """
    module_name, colon, names = text.partition(":")
    if not colon or not module_name or not names:
        raise ScenarioError(key, f'must be written "module:name", not {text!r}')
    thing: Any = _module(module_name, key)
    for name in names.split("."):
        if not hasattr(thing, name):
            choices = [one for one in dir(thing) if not one.startswith("_")]
            raise unknown(key, "policy" if key == "policy" else "name", name, choices)
        thing = getattr(thing, name)
    return thing


def _module(name: str, key: str) -> Any:
    found = None
    try:
        if not name.startswith("."):
            found = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        # A package on the way to it is not there; unless that one's own code fails.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
    if found is None:
        raise ScenarioError(
            key,
            f"there is no module {name!r}; it is looked for in the scenario's directory, "
            "in this one, and where Python finds modules",
        )
    return importlib.import_module(name)
