"""The examples of CONTRIBUTING.md, run as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from checkout import REPOSITORY, Checkout

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text()


def python_blocks() -> dict[str, str]:
    """File name -> code, for each code block whose first line names its file."""
    found = re.findall(r"^```python\n# (\S+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return dict(found)


def yaml_blocks() -> dict[str, object]:
    """Key -> value of the configuration lines."""
    found = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return {key: value for block in found for key, value in yaml.safe_load(block).items()}


def test_every_block_is_found() -> None:
    assert list(python_blocks()) == [
        "partbench/methods/autoencoder.py",
        "partbench/methods/colour_spots.py",
        "partbench/methods/brightness_bands.py",
        "partbench/data/shades.py",
        "partbench/probes/centroid.py",
    ]
    assert TEXT.count("```python") == 5
    assert list(yaml_blocks()) == [
        *("autoencoder", "colour_spots", "brightness_bands"),
        *("shades", "centroid"),
    ]


def test_the_example_package_holds_the_same_files() -> None:
    package = REPOSITORY / "examples/partbench-example/src/partbench_example"
    files = {
        f"partbench/{path.relative_to(package)}": path.read_text()
        for path in package.glob("*/*.py")
        if path.name != "__init__.py"
    }
    assert len(files) == 3
    assert files.items() <= python_blocks().items()


@pytest.mark.timeout(600)
def test_examples_run_from_images_to_report(tmp_path: Path) -> None:
    here = Checkout(tmp_path / "partbench")
    lines = yaml_blocks()
    for name, code in python_blocks().items():
        assert not (here.folder / name).exists()
        (here.folder / name).write_text(code)
    config = here.configure(
        {
            "name": "tiny",
            "comparable": False,
            "seeds": [0],
            "runtime": {"device": "cpu", "threads": 1},
            "data": {
                "shades": lines["shades"],
                "toy": {"reader": "toy", "size": 32, "train": 64, "val": 1, "test": 32},
            },
            "runs": [
                {
                    "train": "shades",
                    "methods": {"autoencoder": lines["autoencoder"], "raw_pixels": ["paper"]},
                    "probes": {"centroid": lines["centroid"]},
                },
                {
                    "train": "toy",
                    "methods": {"colour_spots": lines["colour_spots"]},
                    "probes": {"landmarks": ["toy"]},
                },
                {
                    "train": "toy",
                    "methods": {"brightness_bands": lines["brightness_bands"]},
                    "probes": {"parts": ["toy"]},
                },
            ],
            "probes": {"landmarks": {"normaliser": "image", "few_shot": []}},
        }
    )
    here.make(config)
    everything = here.metrics("tiny")
    assert set(everything["status"]) == {"done"}
    methods = everything.drop_duplicates(["method", "probe"])
    assert set(methods["method"] + " " + methods["probe"]) == {
        *("autoencoder centroid", "raw_pixels centroid"),
        *("colour_spots landmarks", "brightness_bands parts"),
    }
    metrics = everything[everything["probe"] == "centroid"]
    assert sorted(metrics["method"]) == ["autoencoder", "raw_pixels"]
    assert set(metrics["probe"]) == {"centroid"}
    assert set(metrics["train"]) == set(metrics["eval"]) == {"shades"}
    assert set(metrics["status"]) == {"done"}
    assert (metrics["value"].astype(float) > 90).all()  # dark and bright are easy to tell apart
    assert "autoencoder" in (here.folder / "report/tiny/index.html").read_text().lower()


def test_examples_keep_the_style(tmp_path: Path) -> None:
    for name, code in python_blocks().items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    config = ["--config", str(REPOSITORY / "pyproject.toml")]
    for command in (["check"], ["format", "--check"]):
        found = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", *config, str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 0, found.stdout + found.stderr
