"""Methods, readers and probes from installed packages and from folders."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from checkout import Checkout

from partbench import config, fingerprint, method, plugins
from partbench.cli import main
from partbench.data.prepare import _begin_work, _Work
from partbench.data.reader import Reader
from partbench.errors import BadInput
from partbench.method import Method
from partbench.plan import TFLOPS, run_plans
from partbench.probe import Probe
from partbench.provenance import origin, provenance
from partbench.settings import dump
from partbench.throughput import Throughput

METHOD = '''
"""The mean colour."""

from torch import Tensor

from partbench.method import StepFreeMethod

from ..layers import mean


class MeanColour(StepFreeMethod):
    """The mean of all pixels."""

    def features(self, images: Tensor) -> Tensor:
        """Return the mean colour."""
        return mean(images)
'''
LAYERS = '''
"""What the method and others need."""

from torch import Tensor


def mean(images: Tensor) -> Tensor:
    """Return the mean of all pixels."""
    return images.mean((2, 3))


def spread(images: Tensor) -> Tensor:
    """Return the spread of all pixels."""
    return images.std((2, 3))
'''
READER = '''
"""Grey squares, dark or bright."""

from collections.abc import Sequence

import numpy as np

from partbench.data.reader import Reader, Sample


class Squares(Reader):
    """Two classes that differ in brightness."""

    class_names = ("dark", "bright")
    counts = {"train": 24, "test": 16}

    def splits(self) -> dict[str, Sequence[str]]:
        """Return the numbers of the squares."""
        return {split: [f"{i:02d}" for i in range(n)] for split, n in self.counts.items()}

    def sample(self, split: str, index: int) -> Sample:
        """Return a square."""
        draw = np.random.default_rng([split == "test", index])
        low = 100 * (index % 2)
        image = draw.integers(low, low + 150, (32, 32, 3), dtype=np.uint8)
        return Sample(f"{index:02d}", image, label=index % 2)
'''
PROBE = '''
"""The mean of the features."""

from pathlib import Path
from typing import Any

from partbench.outputs import features
from partbench.data.prepared import Prepared
from partbench.probe import Numbers, Probe, Result, Setting
from partbench.settings import Settings


class FeatureMean(Probe):
    """The mean of the features of the test images."""

    Settings = Settings
    version = 1
    needs = ("features",)

    def run(self, source: Path, data: Path, settings: Any, seed: int, device: str) -> Result:
        """Measure the features in `source`."""
        split = Prepared(data).split("test")
        numbers = Numbers(unit="", better="higher")
        numbers.add("mean", Setting(), features.read(source, "test", len(split)).mean(1))
        return numbers.result(details={})
'''
FILES = {
    "methods/mean_colour.py": METHOD,
    "layers.py": LAYERS,
    "data/squares.py": READER,
    "probes/feature_mean.py": PROBE,
}
TINY: dict[str, Any] = {
    "name": "tiny",
    "comparable": False,
    "seeds": [0],
    "plugins": ["mine"],
    "runtime": {"device": "cpu", "threads": 1},
    "data": {"squares": {"reader": "squares", "size": 32}},
    "runs": [
        {
            "train": "squares",
            "methods": {"mean_colour": ["paper"]},
            "probes": {"feature_mean": ["squares"]},
        }
    ],
}
Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test begins and ends without plugins."""
    monkeypatch.setenv(plugins.VARIABLE, "")

    def forget() -> None:
        plugins._used.clear()
        plugins._installed.cache_clear()
        plugins._installed_packages.cache_clear()
        for name in [
            name for name in sys.modules if name.startswith(("partbench_plugins_", "owls"))
        ]:
            del sys.modules[name]

    forget()
    yield
    forget()


def write(folder: Path, files: dict[str, str] = FILES) -> Path:
    """Write files below a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip())
    return folder


def install(site: Path, files: dict[str, str] = FILES, points: str = "") -> Path:
    """Write what `pip install` leaves of a package `owls` with its entry points."""
    write(site / "owls", files)
    entries = {
        "methods": "mean_colour = owls.methods.mean_colour",
        "data": "squares = owls.data.squares",
        "probes": "feature_mean = owls.probes.feature_mean",
    }
    text = points or "".join(f"[partbench.{k}]\n{v}\n" for k, v in entries.items())
    information = {
        "METADATA": "Metadata-Version: 2.1\nName: owl-parts\nVersion: 1.2\n",
        "entry_points.txt": text,
    }
    write(site / "owl_parts-1.2.dist-info", information)
    return site


def load(kind: str, name: str) -> type:
    base: Any = {"methods": Method, "data": Reader, "probes": Probe}[kind]
    return plugins.load(kind, name, base)


ALL = (("methods", "mean_colour"), ("data", "squares"), ("probes", "feature_mean"))


def test_a_folder_is_searched(tmp_path: Path) -> None:
    mine = write(tmp_path / "my-plugins")
    with pytest.raises(BadInput, match=r"no 'mean_colour' in partbench/methods/;"):
        load("methods", "mean_colour")
    plugins.add([mine], "test")
    for kind, name in ALL:
        cls = load(kind, name)
        assert cls.__module__ == f"partbench_plugins_my_plugins.{kind}.{name}"
        base: Any = {"methods": Method, "data": Reader, "probes": Probe}[kind]
        assert {name} < set(plugins.names(kind, base))
    assert method.name_of(load("methods", "mean_colour")) == "mean_colour"
    with pytest.raises(BadInput, match=r"nor among the plugins; did you mean 'mean_colour'\?"):
        load("methods", "mean_color")


def test_an_installed_package_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(install(tmp_path)))
    for kind, name in ALL:
        assert load(kind, name).__module__ == f"owls.{kind}.{name}"
    assert plugins.packages() == {"owls": tmp_path / "owls"}
    record = provenance("cpu", "")["plugins"]
    assert record == [
        {
            **{"kind": kind, "name": name, "distribution": "owl-parts", "version": "1.2"},
            **{"commit": "not a git checkout", "dirty": False},
        }
        for kind, name in ALL
    ]


def test_a_name_of_two_files_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = METHOD.replace("from ..layers import mean\n", "mean = len\n")
    one = write(tmp_path / "one", {"methods/vae.py": vae, "methods/mine.py": vae})
    two = write(tmp_path / "two", {"methods/mine.py": vae})
    plugins.add([one, two], "test")
    with pytest.raises(BadInput) as caught:
        load("methods", "vae")
    assert f"'vae' is the name of partbench/methods/vae.py and of {one}/methods/vae.py" in str(
        caught.value
    )
    with pytest.raises(BadInput, match=rf"of {one}/methods/mine.py and of {two}/methods/mine.py"):
        load("methods", "mine")
    install(
        tmp_path / "site", {"methods/mine.py": vae}, "[partbench.methods]\nmine=owls.methods.mine"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    plugins._installed.cache_clear()
    with pytest.raises(BadInput, match=r"is the name of owls.methods.mine of owl-parts 1.2 and of"):
        load("methods", "mine")


def test_a_module_of_partbench_that_is_no_reader_takes_no_name(tmp_path: Path) -> None:
    plugins.add([write(tmp_path / "mine", {"data/batch.py": READER})], "test")
    assert load("data", "batch").__name__ == "Squares"
    assert fingerprint.of_preparation("batch") != fingerprint.of_preparation("toy")


def test_the_code_of_plugins_is_in_their_fingerprints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = iter(range(100))

    def prints(files: dict[str, str], folder: str = "mine") -> list[str]:
        """Of the three stages."""
        place = write(tmp_path / str(next(count)) / folder, FILES | files)
        monkeypatch.setenv(plugins.VARIABLE, str(place))
        probe = f"partbench_plugins_{folder}.probes.feature_mean"
        return [
            fingerprint.of_training("mean_colour"),
            fingerprint.of_preparation("squares"),
            fingerprint.fingerprint("partbench.probe", probe),
        ]

    before = prints({})
    assert len(set(before)) == 3
    assert prints({}) == before  # wherever the folder lies

    def changed(files: dict[str, str]) -> list[bool]:
        return [new != old for new, old in zip(prints(files), before, strict=True)]

    assert changed({"layers.py": LAYERS.replace("(2, 3)", "(3, 2)")}) == [True, False, False]
    assert changed({"layers.py": LAYERS.replace(".std(", ".var(")}) == [False] * 3
    assert changed({"layers.py": LAYERS.replace("the mean of", "a mean of")}) == [False] * 3
    assert changed({"methods/mean_colour.py": METHOD + "\nX = 1\n"}) == [True, False, False]
    assert changed({"data/squares.py": READER.replace("150", "151")}) == [False, True, False]
    assert changed({"probes/feature_mean.py": PROBE + "\nX = 1\n"}) == [False, False, True]
    # Modules are followed whatever they are called, and however they are imported.
    for imported in ("from .. import files", "from ..files import mean", "import owls"):
        entry = {"methods/mean_colour.py": METHOD.replace("from ..layers import mean", imported)}
        one = prints({**entry, "files.py": LAYERS})
        two = prints({**entry, "files.py": LAYERS.replace("(2, 3)", "(3, 2)")})
        assert (one[0] != two[0]) is ("files" in imported)


def test_derived_data_follow_the_code_of_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prints = []
    for name, extra in (("one", ""), ("two", "\nX = 1\n")):
        files = {path: text + extra for path, text in FILES.items()}
        monkeypatch.setenv(plugins.VARIABLE, str(write(tmp_path / name / "mine", files)))
        prints.append([fingerprint.of_flow("squares"), fingerprint.of_second_stream("mean_colour")])
    assert all(one != two for one, two in zip(*prints, strict=True))


def test_the_steps_of_a_plugin_are_planned(tmp_path: Path) -> None:
    trained = "from partbench.methods.vae import VAE\n\n\nclass Own(VAE):\n    pass\n"
    squares = READER.replace('"train": 24', '"train": 240')
    write(tmp_path / "mine", {**FILES, "methods/own.py": trained, "data/squares.py": squares})
    runs = [
        {
            "train": "squares",
            "methods": {"own": ["demo"], "vae": ["demo"], "mean_colour": ["paper"]},
            "probes": {"feature_mean": ["squares"]},
        }
    ]
    read = config.check({**TINY, "runs": runs}, "tiny.yaml", tmp_path)
    nothing = Throughput(tmp_path / "results")
    plans = {run.method: of_run for run, of_run in run_plans(read, TFLOPS, nothing)[0].items()}
    assert plans["own"] == plans["vae"]
    assert plans["own"].bytes
    assert plans["own"].flops
    assert (plans["mean_colour"].bytes, plans["mean_colour"].flops) == (0, 0)


def test_the_package_of_an_entry_point_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for i, layers in enumerate((LAYERS, LAYERS.replace("(2, 3)", "(3, 2)"))):
        with monkeypatch.context() as here:
            here.syspath_prepend(str(install(tmp_path / str(i), FILES | {"layers.py": layers})))
            plugins._installed.cache_clear()
            plugins._installed_packages.cache_clear()
            found.append(fingerprint.of_training("mean_colour"))
            found.append(fingerprint.of_preparation("squares"))
    assert found[0] != found[2]
    assert found[1] == found[3]


def test_a_commit_is_that_of_the_plugin(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine")
    plugins.add([mine], "test")
    load("methods", "mean_colour")
    (plugin,) = plugins.used()
    origin.cache_clear()
    assert origin(plugin) == {
        **{"kind": "methods", "name": "mean_colour", "folder": str(mine)},
        **{"commit": "not a git checkout", "dirty": False},
    }
    for command in (
        ["init", "--quiet"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "a"],
    ):
        subprocess.run(["git", *command], cwd=mine, check=True)
    origin.cache_clear()
    assert len(origin(plugin)["commit"]) == 40
    (mine / "new.py").touch()
    origin.cache_clear()
    assert origin(plugin)["dirty"]


def test_a_package_installed_from_a_repository_says_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = install(tmp_path)
    source = {"url": "https://example.org/owls", "vcs_info": {"vcs": "git", "commit_id": 40 * "a"}}
    (site / "owl_parts-1.2.dist-info/direct_url.json").write_text(json.dumps(source))
    monkeypatch.syspath_prepend(str(site))
    load("methods", "mean_colour")
    (record,) = provenance("cpu", "")["plugins"]
    assert (record["commit"], record["dirty"]) == (40 * "a", False)


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_a_reader_reaches_the_processes_that_decode(tmp_path: Path, start: str) -> None:
    """A process that starts empty imports the plugin when it unpickles the reader."""
    plugins.add([write(tmp_path / "mine")], "test")
    cls: Any = load("data", "squares")
    reader = cls(tmp_path, cls.Settings.parse({"size": 32}, "test"))
    work = (_Work(reader, "train", tmp_path, []),)
    with ProcessPoolExecutor(1, get_context(start), _begin_work, work) as pool:
        assert pool.submit(max, 1, 2).result() == 2


MISTAKES: dict[str, tuple[dict[str, str], str]] = {
    "an import": (
        {"methods/mean_colour.py": METHOD.replace("..layers", "..layer")},
        r"mean_colour.py cannot be imported: ModuleNotFoundError: .*mean_colour.py, line 7\)",
    ),
    "syntax": (
        {"methods/mean_colour.py": "class :\n"},
        r"cannot be imported: SyntaxError: .*mean_colour.py, line 1",
    ),
    "two classes": (
        {"methods/mean_colour.py": METHOD + "\nclass Other(MeanColour):\n    pass\n"},
        r"mean_colour.py defines 2 subclasses of Method; a file holds exactly one",
    ),
    "no class": ({"methods/mean_colour.py": "x = 1\n"}, r"no 'mean_colour' in partbench/methods/"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_in_a_file_are_explained(what: str, tmp_path: Path) -> None:
    files, message = MISTAKES[what]
    plugins.add([write(tmp_path / "mine", FILES | files)], "test")
    with pytest.raises(BadInput, match=message):
        load("methods", "mean_colour")


def test_mistakes_in_folders_and_entry_points_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = write(tmp_path / "mine"), write(tmp_path / "other/mine")
    for paths, message in (
        ([tmp_path / "nowhere"], r"here: the plugin folder .*nowhere does not exist"),
        ([tmp_path], r"has none of the folders methods/, data/, probes/"),
        ([mine, other], rf"the plugin folders {mine} and {other} have one name"),
        ([write(tmp_path / "a:b/mine")], r"has a ':' in its path"),
    ):
        with pytest.raises(BadInput, match=message):
            plugins.add(paths, "here")
        assert not os.environ[plugins.VARIABLE]
    for point in ("other = owls.methods.mean_colour", "mean_colour = owls.methods.mean_colour:X"):
        install(tmp_path / point, points=f"[partbench.methods]\n{point}\n")
        with monkeypatch.context() as here:
            here.syspath_prepend(str(tmp_path / point))
            plugins._installed.cache_clear()
            with pytest.raises(BadInput, match=r"must name a module of the same name"):
                load("methods", "mean_colour")


def test_paths_count_from_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "project/mine")
    (tmp_path / "project/tiny.yaml").write_text(json.dumps(TINY))
    monkeypatch.chdir(tmp_path)
    read = config.read(Path("project/tiny.yaml"))
    assert read.plugins == ["project/mine"]
    assert os.environ[plugins.VARIABLE] == str(tmp_path / "project/mine")
    # The results say where the plugins lie, seen from where they lie themselves.
    out = tmp_path / "results/tiny/config.json"
    assert main(["configuration", "--json", dump(read), "--out", str(out)]) == 0
    assert json.loads(out.read_text())["plugins"] == ["../../project/mine"]
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv(plugins.VARIABLE, "")
    assert main(["outcome", str(tmp_path / "results/tiny")]) == 0
    assert os.environ[plugins.VARIABLE] == str(tmp_path / "project/mine")


def test_a_command_without_a_configuration_finds_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(plugins.VARIABLE, str(write(tmp_path / "mine")))
    out = tmp_path / "sheet.png"
    assert main(["data", "show", "squares", "--out", str(out)]) == 0
    assert out.stat().st_size > 1000
    assert main(["data", "list"]) == 0
    assert "\nsquares " in capsys.readouterr().out


@pytest.mark.timeout(300)
def test_a_workflow_runs_plugins_and_runs_them_again(tmp_path: Path) -> None:
    here = Checkout(tmp_path / "partbench")
    mine = write(tmp_path / "elsewhere/mine")
    project = tmp_path / "elsewhere"
    (project / "tiny.yaml").write_text(json.dumps(TINY))
    tiny = "../elsewhere/tiny.yaml"
    here.make(tiny)
    metrics = here.metrics("tiny")
    assert list(metrics["status"]) == ["done"]
    assert 0.3 < metrics["value"][0] < 0.6
    page = (here.folder / "report/tiny/index.html").read_text()
    for what in ("method mean_colour", "reader squares", "probe feature_mean"):
        assert f"{what}: the folder {mine}, not a git checkout" in page
    results = here.folder / "results/tiny"
    train = json.loads((results / "runs/mean_colour/paper/squares/0/train.json").read_text())
    assert train["provenance"]["command"].startswith(f"PARTBENCH_PLUGINS={mine} partbench train")
    assert here.run("partbench", "verify", "results/tiny").returncode == 0

    assert here.planned(tiny) == []
    (mine / "layers.py").write_text(LAYERS.replace("(2, 3)", "(3, 2)"))
    rules = sorted(job.rule for job in here.planned(tiny))
    assert rules == ["all", "extract", "probe_feature_mean", "report", "train_mean_colour"]
    # The project moves; nothing is computed again.
    (mine / "layers.py").write_text(LAYERS)
    (tmp_path / "elsewhere").rename(tmp_path / "new")
    rules = [job.rule for job in here.planned("../new/tiny.yaml")]
    assert not {"train_mean_colour", "prepare", "extract"} & {*rules}
