"""What README.md and docs/ say works as it stands there, and the documentation builds."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from checkout import REPOSITORY
from PIL import Image

from partbench import config as grid
from partbench import plugins
from partbench.cli import _parser, main
from partbench.data.reader import Reader
from partbench.method import Method
from partbench.probe import Probe

README = REPOSITORY / "README.md"
PAGES = (README, REPOSITORY / "config" / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
TEXTS = {path: path.read_text() for path in PAGES}
COMMAND = re.compile(r"^    (?:\$ )?(partbench .*?)(?:  +#.*)?$", re.MULTILINE)
COMMANDS = sorted({line for text in TEXTS.values() for line in COMMAND.findall(text)})
ELSEWHERE = {
    "partbench data fetch cub stl10": "takes the internet; tests/test_fetch.py",
    "partbench data show cub": "takes CUB; tests/test_cub.py",
    "partbench data as-stl10 FOLDER": "tests/test_stl10_layout.py",
    "partbench data changed FILE.yaml": "tests/test_stale_data.py",
    "partbench move results/demo/runs/dlp/demo/toy/0/model.pt results/demo/data/toy --image 3": (
        "takes a trained model; tests/test_dlp.py"
    ),
    "partbench pack results/demo": "tests/test_pack.py",
    "partbench compare demo.pack.zip results/mine": "tests/test_pack.py",
    "partbench leaderboard one.pack.zip two.pack.zip --out board --strict": "tests/test_pack.py",
    "partbench merge demo.pack.zip results/mine --out results/joined": "tests/test_pack.py",
    "partbench report --results results/joined --out report/joined/index.html": (
        "the stage of the workflow; tests/test_dag.py"
    ),
    "partbench report --results results/demo --out demo.html --single": (
        "takes results; tests/test_report_pages.py"
    ),
    "partbench run demo": "the demo; tests/test_run.py",
    "partbench run paper -- --profile slurm -n": "tests/test_run.py",
    "partbench score generation generated/ real/ --images 10000": (
        "takes the Inception network; tests/test_generation.py"
    ),
}
"""Commands that are not run here, and where they are."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the commands name."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "config").symlink_to(REPOSITORY / "config")
    rng = np.random.default_rng(0)
    for name, n in (("train", 60), ("test", 30)):
        labels = np.arange(n) % 3
        points = rng.uniform(0, 64, (n, 4, 2))
        np.savez(
            folder / f"{name}.npz",
            features=rng.normal(size=(n, 5)) + labels[:, None],
            labels=labels,
            points=points,
            landmarks=points[:, :3] + 1,
        )
    parts = rng.integers(0, 4, (5, 16, 16))
    np.savez(folder / "parts.npz", pred=parts, true=np.where(parts == 3, 255, parts))
    for name in ("generated", "real"):
        features = rng.normal(size=(50, 6))
        np.savez(folder / f"{name}.npz", mu=features.mean(0), sigma=np.cov(features.T))
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_shown_command_runs(
    command: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = shlex.split(command)[1:]
    if command in ELSEWHERE:
        _parser().parse_args(words)
        return
    monkeypatch.chdir(place)
    monkeypatch.setenv("PARTBENCH_DATA", str(place / "data"))
    try:
        status = main(words)
    except SystemExit as stop:
        # `data check` says by its status that files are missing.
        assert words[:2] == ["data", "check"]
        status = 0 if stop.code == 1 else 2
    assert status == 0, capsys.readouterr().err
    assert capsys.readouterr().out


def test_every_exception_is_shown() -> None:
    assert set(ELSEWHERE) <= set(COMMANDS)
    assert len(COMMANDS) > len(ELSEWHERE) + 5


def test_the_readme_is_short() -> None:
    assert len(TEXTS[README].splitlines()) <= 120


def test_the_time_that_the_demo_takes() -> None:
    start = (REPOSITORY / "docs" / "start.md").read_text()
    pattern = r"takes (\d+) minutes on (\w+) cores \(`(.*)`\)"
    said = re.search(pattern, TEXTS[README])
    assert said
    assert re.search(pattern, start)[0] == said[0]  # type: ignore[index]
    measured = json.loads((REPOSITORY / said[3]).read_text())
    assert int(said[1]) == round(measured["wall"] / 60)
    assert (said[2], measured["machine"]["used"]) == ("two", 2)
    config = grid.read(REPOSITORY / "config" / "demo.yaml")
    jobs = Counter(f"train_{run.method}" for run in grid.runs(config))
    jobs.update(f"probe_{cell.probe}" for cell in grid.cells(config) if not cell.skip)
    computed = ("train_", "probe_")
    assert jobs == {
        name: rule["jobs"] for name, rule in measured["rules"].items() if name.startswith(computed)
    }


def test_the_jobs_of_one_method_again() -> None:
    cells = [
        cell
        for cell in grid.cells(grid.read(REPOSITORY / "config" / "demo.yaml"))
        if cell.run.method == "patchvae" and not cell.skip
    ]
    jobs = Counter(f"probe_{cell.probe}" for cell in cells)
    jobs["train_patchvae"] = len({cell.run for cell in cells})
    jobs["extract"] = sum(grid.load_probe(cell.probe).reads == "outputs" for cell in cells)
    jobs["report"] = jobs["all"] = 1
    text = (REPOSITORY / "docs" / "benchmark.md").read_text()
    table = text.partition("-n -R train_patchvae\n    job")[2].partition("\n\n")[0]
    said = {name: int(n) for name, n in re.findall(r"^ +(\w+) +(\d+)$", table, re.MULTILINE)}
    assert said.pop("total") == sum(said.values())
    assert said == jobs


def test_your_own_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    block = re.search(r"(?:^    .*\n)+", (REPOSITORY / "docs/images.md").read_text(), re.MULTILINE)
    assert block
    config = tmp_path / "birds.yaml"
    config.write_text(textwrap.dedent(block[0]))
    # A batch for training, and as few as may be for the test.
    for place in (
        *(f"train/{kind}/{i}.png" for kind in ("owl", "kite") for i in range(32)),
        *("test/owl/3.png", "test/kite/4.jpg"),
    ):
        path = tmp_path / "birds" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (70, 90)).save(path)
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    assert main(["check", str(config)]) == 0
    assert "ok    birds: train 64 of 64, test 2 of 2" in capsys.readouterr().out
    assert main(["plan", str(config)]) == 0
    assert re.search(r"total +9 +9 ", capsys.readouterr().out)


def test_the_rulers_in_python() -> None:
    """The two programs run one after the other, as they are read."""
    text = (REPOSITORY / "docs" / "measure.md").read_text()
    programs = re.findall(r"\n\n((?:    from partbench\.metrics.*\n)(?:(?:    .*)?\n)+)", text)
    assert len(programs) == 2
    draw = np.random.default_rng(0)
    given: dict[str, Any] = {
        f"{split}_{what}": draw.normal(size=(20, k, 2))
        for split in ("train", "test")
        for what, k in (("points", 4), ("landmarks", 3))
    }
    true = draw.choice([0, 3, 11, 255], (6, 8, 8))
    given |= {"true": true, "pred": true % 8}
    given |= {"loader": [(true[:4], true[:4]), (true[4:], true[4:])], "model": lambda x: x % 8}
    exec(textwrap.dedent(programs[0]), given)
    exec(textwrap.dedent(programs[1]), given)
    assert given["ruler"].compute() == given["agreement"]


class Page(HTMLParser):
    """What a built page refers to, and the places in it that can be referred to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value for key, value in attrs if value is not None}
        if "id" in values:
            self.ids.add(values["id"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("index", "search", "next", "prev"):
            self.loads.append(values["href"])
        elif "src" in values:
            self.loads.append(values["src"])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The pages of the documentation, built without a warning from a copy of its sources."""
    folder = tmp_path_factory.mktemp("site")
    for part in ("docs", "config"):
        ignored = shutil.ignore_patterns("_build", "reference", "__pycache__")
        shutil.copytree(REPOSITORY / part, folder / part, ignore=ignored)
    shutil.copy(REPOSITORY / "CONTRIBUTING.md", folder)
    (folder / "partbench").symlink_to(REPOSITORY / "partbench")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    done = subprocess.run(
        [*command, folder / "docs", folder / "site"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    site = (folder / "site").resolve()
    return {path: Page(path) for path in site.rglob("*.html") if "_static" not in path.parts}


def test_there_is_a_page_for_all_there_is(built: dict[Path, Page]) -> None:
    for kind, base in (("methods", Method), ("data", Reader), ("probes", Probe)):
        there = {path.stem for path in built if path.parts[-3:-1] == ("reference", kind)}
        assert there == {*plugins.names(kind, base), "index"}


def test_every_link_leads_somewhere_and_nothing_is_loaded_from_outside(
    built: dict[Path, Page],
) -> None:
    assert built
    for path, page in built.items():
        for reference in page.loads:
            parts = urlsplit(reference)
            assert not parts.scheme or parts.scheme == "data", (path.name, reference)
            assert not parts.netloc, (path.name, reference)
            if parts.path and parts.scheme != "data":
                assert (path.parent / unquote(parts.path)).exists(), (path.name, reference)
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), (path.name, link)
            if parts.fragment and target in built:
                assert unquote(parts.fragment) in built[target].ids | {""}, (path.name, link)
