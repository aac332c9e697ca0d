"""The three lists of dependencies agree: pyproject.toml, requirements.lock, environment.yml."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).parents[1]
CONDA_NAMES = {
    "faiss-cpu": "faiss-gpu",
    "matplotlib": "matplotlib-base",
    "snakemake": "snakemake-minimal",
    "torch": "pytorch-gpu",
}
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def marker_environment(python: str) -> dict[str, str]:
    values = {key: str(value) for key, value in default_environment().items()}
    return values | {"python_version": python, "python_full_version": f"{python}.0"}


def locked(python: str) -> dict[str, Version]:
    """Name -> the version that the lock file installs under a Python on this platform."""
    found: dict[str, Version] = {}
    for line in (REPOSITORY / "requirements.lock").read_text().splitlines():
        if not line or line.startswith((" ", "#")):
            continue
        requirement = Requirement(line.rstrip("\\ "))
        marker = requirement.marker
        if marker and not marker.evaluate(marker_environment(python)):
            continue
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        name = canonicalize_name(requirement.name)
        assert name not in found, f"{name} is locked twice for Python {python}"
        found[name] = Version(specifier.version)
    return found


def project() -> dict:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def runtime_dependencies() -> list[Requirement]:
    return [Requirement(line) for line in project()["dependencies"]]


def environment() -> dict:
    return yaml.safe_load((REPOSITORY / "environment.yml").read_text())


def conda_pins() -> dict[str, str]:
    """Conda or pip name -> the pinned version's beginning, such as "2.15"; empty if not pinned."""
    pins = {}
    for entry in environment()["dependencies"]:
        for line in entry["pip"] if isinstance(entry, dict) else [entry]:
            name, _, version = line.partition("=")
            pins[name] = version.strip("=").removesuffix(".*")
    return pins


def blocks() -> Iterator[tuple[str, list[str]]]:
    """Yield each package's line of the lock file and the lines that belong to it."""
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if re.match(r"\w", line)]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield lines[start], lines[start + 1 : end]


def test_every_locked_package_has_hashes() -> None:
    found = list(blocks())
    assert len(found) > 50
    for name, lines in found:
        hashes = [line for line in lines if line.strip()]
        assert hashes, f"{name} has no hash"
        for line in hashes:
            assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line), (name, line)


@pytest.mark.parametrize("file", ["requirements.lock", "environment.yml"])
def test_no_index_address_stands_anywhere(file: str) -> None:
    text = (REPOSITORY / file).read_text()
    for word in ("://", "--index-url", "--extra-index-url", "--find-links", "--trusted-host"):
        assert word not in text, f"{file} names {word}"


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_satisfies_the_project(python: str) -> None:
    versions = locked(python)
    developers = [Requirement(line) for line in project()["optional-dependencies"]["dev"]]
    for requirement in [*runtime_dependencies(), *developers]:
        version = versions.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not locked for Python {python}"
        assert version in requirement.specifier, f"{requirement} is locked at {version}"


def test_conda_environment_holds_every_runtime_dependency() -> None:
    names = {canonicalize_name(name) for name in conda_pins()}
    for requirement in runtime_dependencies():
        name = canonicalize_name(requirement.name)
        assert CONDA_NAMES.get(name, name) in names, f"{name} is not in environment.yml"


def test_conda_versions_are_in_step_with_the_lock() -> None:
    pins = conda_pins()
    python = pins.pop("python")
    assert Version(python) in SpecifierSet(project()["requires-python"])
    versions = locked(python)
    names = {conda: pip for pip, conda in CONDA_NAMES.items()}
    del pins["pip"]
    for name, pin in pins.items():
        version = versions[names.get(name, name)]
        assert pin == f"{version.major}.{version.minor}", f"{name}={pin}, locked is {version}"


def test_conda_environment_is_public_and_named() -> None:
    found = environment()
    assert found["name"] == "partbench"
    assert found["channels"] == ["conda-forge", "bioconda", "nodefaults"]
