"""What pip installs: wheel and sdist, used in an environment and a folder of their own."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from checkout import PARTS, REPOSITORY, TINY, Checkout
from PIL import Image

from partbench import __version__
from partbench.data.ccp import CCP

pytestmark = pytest.mark.timeout(600)
UV = [sys.executable, "-m", "uv", "--offline", "--quiet"]
SHARED = [name for name in PARTS if name not in ("partbench", "pyproject.toml")]
EXAMPLE = REPOSITORY / "examples" / "partbench-example"
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
        words = [str(environment / "bin" / command[0]), *command[1:]]
        if command[0] == "pip":  # without the internet, and partbench is there
            words = [*UV, *install, "--no-build-isolation", *command[2:]]
        done = subprocess.run(
            words,
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


PAGE = REPOSITORY / "docs" / "own.md"
KINDS = {
    "hair": ("hair",),
    "skin": ("skin",),
    "shoes": ("shoes", "boots", "heels", "pumps", "flats"),
}
PHOTOS = {"train": 40, "test": 20}
KEYS = 300
"""That a person types a minute."""


def write_people(shared_data: Path, root: Path) -> None:
    """Write photos of Clothing Co-Parsing as a person's own, with landmarks, masks and parts."""
    reader = CCP(shared_data, CCP.Settings())
    numbers = {name: i for i, name in enumerate(reader.part_names, 1)}
    names = ("hair", "skin", "clothes", "shoes")
    lines = ["image,landmark,x,y,visible"]
    for split, n in PHOTOS.items():
        (root / split).mkdir(parents=True)
        for index in reader.present(split)[:n]:
            sample = reader.sample(split, index)
            assert sample.parts is not None
            parts = np.where(sample.parts > 0, 3, 0).astype(np.uint8)
            for number, name in enumerate(names, 1):
                for label in KINDS.get(name, ()):
                    parts[sample.parts == numbers[label]] = number
            photo = root / split / sample.name
            shutil.copy(shared_data / "ccp" / "photos" / sample.name, photo)
            Image.fromarray(np.where(parts > 0, 255, 0).astype(np.uint8)).save(
                photo.with_suffix(".mask.png")
            )
            Image.fromarray(parts).save(photo.with_suffix(".parts.png"))
            for number, name in enumerate(names, 1):
                rows, columns = np.nonzero(parts == number)
                place = f"{columns.mean():.1f},{rows.mean():.1f},1" if len(rows) else ",,0"
                lines.append(f"{split}/{sample.name},{name},{place}")
    (root / "landmarks.csv").write_text("\n".join(lines) + "\n")
    (root / "labels.yaml").write_text("parts: {1: hair, 2: skin, 3: clothes, 4: shoes}\n")


def test_a_new_user_s_session(call: Call, shared_data: Path, tmp_path: Path) -> None:
    """Everything happens in the order of the page: files are written, commands run."""
    write_people(shared_data, tmp_path / "data" / "people")
    text = PAGE.read_text()
    keys, began = 0, time.monotonic()
    for kind, block in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if file := re.match(r"# (\S+\.\w+)\n", block):
            path = tmp_path / file[1]
            begun = path.read_text().splitlines()  # by `new` or `init`
            if kind == "yaml":
                keys += sum(len(line) + 1 for line in block.splitlines() if line not in begun)
            path.write_text(block[file.end() :])
        if kind != "console":
            continue
        for command, shown in re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", block, re.MULTILINE):
            keys += len(command) + 1
            said = call(*shlex.split(command), cwd=tmp_path)
            for line in shown.splitlines():
                assert line in said.splitlines(), said
    assert keys / KEYS < 3  # minutes
    assert time.monotonic() - began < 12 * 60
    table = pd.read_csv(tmp_path / "results/people/summary.csv").fillna({"settings": "{}"})
    with_intercept = table[table["settings"].str.contains('"intercept"')]
    errors = with_intercept[with_intercept["metric"] == "image_error"].set_index("method")["mean"]
    assert errors.loc["mean_shape"].min() < errors.loc["spots"].min()
    assert errors.loc["spots"].min() < errors.loc["random_keypoints"].min()
    agreement = table[table["metric"] == "fg_nmi"].set_index("method")["mean"]
    assert agreement["random_parts"] + 5 < agreement["regions"]
    pages = "".join(path.read_text() for path in (tmp_path / "report/people").rglob("*.html"))
    for what in ("own-parts 0.1", "spots", "regions", "mean_shape", "random_parts"):
        assert what in pages
