"""What pip installs: wheel and sdist, used in an environment and a folder of their own."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from checkout import PARTS, REPOSITORY, Checkout

from partbench import __version__

pytestmark = pytest.mark.timeout(600)
UV = [sys.executable, "-m", "uv", "--offline", "--quiet"]
SHARED = [name for name in PARTS if name not in ("partbench", "pyproject.toml")]
EXAMPLE = REPOSITORY / "examples" / "partbench-example"
TINY = """
name: tiny
comparable: false
seeds: [0]
runtime: {device: cpu, threads: 1}
data:
  toy: {reader: toy, size: 32, train: 16, val: 1, test: 16}
probes:
  linear: {cs: [0.1]}
runs:
  - {train: toy, methods: {raw_pixels: [paper]}, probes: {linear: [toy]}}
"""
Call = Callable[..., str]


def files_of(folder: Path) -> set[str]:
    """The files below a folder, without what Python and builds leave."""
    left = ("__pycache__", ".egg-info")
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not any(word in str(path) for word in left)
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads, so that it leaves nothing in the repository."""
    folder = Checkout(tmp_path_factory.mktemp("source") / "partbench").folder
    for name in ("setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    build = ["build", "--no-build-isolation", "--python", sys.executable, "--out-dir", str(out)]
    subprocess.run([*UV, *build, str(source)], check=True)
    assert [path.name for path in out.glob("*.tar.gz")] == [f"partbench-{__version__}.tar.gz"]
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def call(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Call:
    """Run a command of an environment that has the wheel, and sees packages but no checkout.

    The example package is installed there too.
    """
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([*UV, "venv", "--python", sys.executable, str(environment)], check=True)
    python = environment / "bin" / "python"
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", script], text=True).strip())
    # A path in a .pth file is no site folder: the .pth files in there, of checkouts, do nothing.
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["pip", "install", "--no-deps", "--no-index", "--python", str(python)]
    subprocess.run([*UV, *install, str(wheel)], check=True)
    copy = shutil.copytree(EXAMPLE, environment / "example")  # a build leaves files in its folder
    subprocess.run([*UV, *install, "--no-build-isolation", str(copy)], check=True)
    hidden = ("PARTBENCH_DATA", "PYTHONPATH", "SNAKEMAKE_PROFILE", "VIRTUAL_ENV")

    def call(*command: str, cwd: Path, status: int = 0) -> str:
        done = subprocess.run(
            [environment / "bin" / command[0], *command[1:]],
            cwd=cwd,
            env={key: value for key, value in os.environ.items() if key not in hidden},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout
        # The packages may lie in the repository's own environment.
        assert str(REPOSITORY) not in done.stdout.replace(sys.prefix, "")
        return done.stdout

    return call


def test_the_wheel_holds_the_package_and_what_a_checkout_has_beside_it(
    source: Path, wheel: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    share = {f"share/{name}" for name in files_of(source) if name.split("/")[0] in SHARED}
    assert found == {f"partbench/{name}" for name in files_of(source / "partbench") | share}


def test_the_package_is_the_wheel_s(call: Call, tmp_path: Path) -> None:
    place = call("python", "-c", "import partbench; print(partbench.__file__)", cwd=tmp_path)
    assert "/environment" in place
    assert "site-packages" in place


def test_commands_work_in_an_empty_folder(call: Call, tmp_path: Path) -> None:
    dry = call("partbench", "run", "demo", "--", "-n", cwd=tmp_path)
    assert dry.startswith("snakemake --configfile /")
    assert "train_patchvae" in dry
    assert "\ntotal" in dry
    assert "\ntotal" in call("partbench", "plan", "demo", cwd=tmp_path)
    check = call("partbench", "check", "demo", cwd=tmp_path)
    assert f"data root: {tmp_path}/data" in check
    published = call("partbench", "published", cwd=tmp_path)
    assert "patchvae" in published.lower()
    assert call("partbench", "data", "show", "toy", cwd=tmp_path).endswith("\ntoy.png\n")
    draw = np.random.default_rng(0)
    labels = draw.integers(4, size=(20, 30))
    np.savez(tmp_path / "parts.npz", pred=labels, true=labels)
    assert '"nmi": 100.0' in call("partbench", "score", "parts", "parts.npz", cwd=tmp_path)
    # A dry run leaves nothing but Snakemake's own folder.
    assert {path.name for path in tmp_path.iterdir()} <= {".snakemake", "parts.npz", "toy.png"}


def test_a_profile_comes_along(call: Call, tmp_path: Path) -> None:
    command = ("partbench", "run", "demo", "--", "-n", "--profile")
    assert "mem_mb=12000" in call(*command, "laptop", cwd=tmp_path)
    assert "\ntotal" in call(*command, "slurm", cwd=tmp_path)


def test_the_example_package_is_found_and_measured(call: Call, tmp_path: Path) -> None:
    shutil.copy(EXAMPLE / "shades.yaml", tmp_path)
    call("partbench", "run", "shades.yaml", cwd=tmp_path)
    table = pd.read_csv(tmp_path / "results/shades/metrics.csv")
    assert set(table["status"]) == {"done"}
    assert (table["value"] > 90).all()
    page = (tmp_path / "report/shades/index.html").read_text()
    for what in ("method autoencoder", "reader shades", "probe centroid"):
        assert f"{what}: partbench-example 1.0.0, not a git checkout" in page


def test_the_tests_of_the_example_package_pass(call: Call, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    found = call("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=tmp_path)
    assert "6 passed" in found


def test_a_plugin_begins_from_the_wheel(call: Call, tmp_path: Path) -> None:
    call("partbench", "new", "method", "mine", cwd=tmp_path)
    assert (tmp_path / "plugins/methods/mine.py").is_file()
    refused = call("partbench", "new", "method", "other", "--checkout", cwd=tmp_path, status=1)
    assert "this partbench is installed" in refused


def test_a_run_ends_in_its_page(call: Call, tmp_path: Path) -> None:
    # Python would prefer a package in the working directory.
    (tmp_path / "partbench").mkdir()
    (tmp_path / "partbench/__init__.py").write_text("raise ImportError('the wrong partbench')\n")
    (tmp_path / "tiny.yaml").write_text(TINY)
    call("partbench", "run", "tiny.yaml", cwd=tmp_path)
    assert (tmp_path / "report/tiny/index.html").stat().st_size > 10_000
    table = (tmp_path / "results/tiny/metrics.csv").read_text()
    assert f"not a git checkout, version {__version__}" in table
    assert str(REPOSITORY) not in table
    assert "Nothing to be done" in call("partbench", "run", "tiny.yaml", "--", "-n", cwd=tmp_path)
