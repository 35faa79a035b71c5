"""The one door: what runs here on a laptop is what runs in CI.

``nox`` runs everything but the benchmark; ``nox -s tests`` the tests on every supported
Python that the machine has; ``nox -s tests-3.12 -- tests/core -x`` a part of them.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["lint", "types", "docs", "tests_lowest", "tests"]
# A machine need not have every supported Python, in CI either.
nox.options.error_on_missing_interpreters = False
nox.options.download_python = "never"

PYPROJECT = nox.project.load_toml("pyproject.toml")
PROJECT = PYPROJECT["project"]
PYTHONS = nox.project.python_versions(PYPROJECT)
LOWEST = PYTHONS[0]
EXTRAS = PROJECT["optional-dependencies"]


def select_pyenv_versions() -> None:
    """Let pyenv's shims run: each ``pythonX.Y`` on the path needs its version selected."""
    if "PYENV_VERSION" in os.environ or not shutil.which("pyenv"):
        return
    listed = subprocess.check_output(["pyenv", "versions", "--bare"], text=True).split()
    newest = {version.rpartition(".")[0]: version for version in sorted(listed, key=_numbers)}
    found = [newest[python] for python in PYTHONS if python in newest]
    if found:
        os.environ["PYENV_VERSION"] = ":".join([*found, "system"])


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


select_pyenv_versions()


def group(name: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(PYPROJECT, name)


def install_wheel(session: nox.Session, *requirements: str) -> None:
    """Build the wheel and install it with all its extras: the source tree is not on the path."""
    dist = Path(session.virtualenv.location) / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(dist), ".")
    (wheel,) = dist.glob("*.whl")
    session.install(f"{wheel}[{','.join(EXTRAS)}]", *requirements)
    # A reused environment may hold an older build of the same version.
    session.install("--force-reinstall", "--no-deps", str(wheel))


def run_pytest(session: nox.Session, *options: str) -> None:
    """Run the tests; one that hangs is a failure with a traceback, not a build that hangs."""
    # Any order on a laptop; in CI always the same one, so that a failure can be repeated.
    seed = ["-p", "randomly", "--randomly-seed=1"] if os.environ.get("CI") else []
    session.run(
        "python", "-m", "pytest", "--timeout=120", *seed, *options, *session.posargs,
        env={"PYTHONPATH": None},
    )  # fmt: skip


@nox.session(python=PYTHONS, tags=["test"])
def tests(session: nox.Session) -> None:
    """Run the tests against the built wheel, with branch coverage on the lowest Python."""
    install_wheel(session, *group("test"))
    whole = session.python == LOWEST and not session.posargs
    run_pytest(session, *(["--cov", "--cov-report=term-missing"] if whole else []))


@nox.session(python=LOWEST, tags=["test"])
def tests_lowest(session: nox.Session) -> None:
    """Run the tests with the lowest versions of every dependency that the project admits."""
    constraints = Path(session.virtualenv.location) / "lowest.txt"
    constraints.write_text("\n".join(lowest_versions()) + "\n")
    install_wheel(session, *group("test"), "--constraint", str(constraints))
    run_pytest(session)


def lowest_versions() -> list[str]:
    """Pin each ``name>=version`` of the dependencies and the extras to that version."""
    declared = [*PROJECT["dependencies"], *(one for extra in EXTRAS.values() for one in extra)]
    pins = []
    for requirement in map(Requirement, declared):
        (bound,) = requirement.specifier
        if bound.operator != ">=":
            raise ValueError(f"{requirement} has no plain lower bound")
        pins.append(f"{requirement.name}=={bound.version}")
    return pins


@nox.session(python=LOWEST)
def lint(session: nox.Session) -> None:
    """Check style, format and the direction of imports."""
    session.install(*group("lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")
    session.run("lint-imports", env={"PYTHONPATH": "src"})


@nox.session(python=LOWEST)
def types(session: nox.Session) -> None:
    """Check the package and the typed uses of it with mypy and pyright."""
    session.install("-e", f".[{','.join(EXTRAS)}]", *group("types"))
    for python in PYTHONS:
        session.run("mypy", "--python-version", python)
    session.run("pyright")


@nox.session(python=LOWEST)
def docs(session: nox.Session) -> None:
    """Build the site; a broken link, or an asset from elsewhere, is an error."""
    session.install("-e", ".", *group("docs"))
    session.run(
        "mkdocs", *(session.posargs or ["build", "--strict"]), env={"NO_MKDOCS_2_WARNING": "1"}
    )
    if not session.posargs:
        refuse_remote_assets(session, Path("site"))


def refuse_remote_assets(session: nox.Session, site: Path) -> None:
    """Fail when a page would load a script, a style, a frame or a picture from another host."""
    loads = r"<(?:script|img|iframe|link(?=[^>]*stylesheet))[^>]*(?:src|href)=.?(?:https?:)?//[^>]*"
    for page in site.rglob("*.html"):
        if tag := re.search(loads, page.read_text(encoding="utf-8")):
            session.error(f"{page} loads from another host: {tag.group()}")


@nox.session(python=LOWEST)
def bench(session: nox.Session) -> None:
    """Measure the library beside its peers, each at its newest version."""
    install_wheel(session, "--upgrade", *group("bench"))
    session.run("python", "-m", "bench", *session.posargs, env={"PYTHONPATH": None})
