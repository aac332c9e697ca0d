"""The workflow from start to end, in a copy of the repository: what runs again, and when."""

import ast
import copy
import html
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import REPOSITORY, Checkout, Job

from partbench import plugins
from partbench.method import Method
from partbench.probe import Probe

SMALL = {"encoder_width": 8, "decoder_width": 8, "batch_size": 16, "epochs": 2}
TINY: dict[str, Any] = {
    "name": "tiny",
    "comparable": False,
    "seeds": [0],
    "runtime": {"device": "cpu", "threads": 1},
    "data": {"toy": {"reader": "toy", "size": 32, "train": 48, "val": 1, "test": 32}},
    "settings": {
        "patchvae": {**SMALL, "parts": 4, "part_dims": 2},
        "vae": {**SMALL, "latent": 8},
        "random_init": {"encoder_width": 8},
    },
    "probes": {
        "linear": {"cs": [0.001, 0.1]},
        "landmarks": {"normaliser": "image"},
        "classify": {"freeze": ["conv1-5"], "epochs": 1, "batch_size": 16, "learning_rate": 0.01},
    },
    "runs": [
        {
            "train": "toy",
            "seeds": [0, 1],
            "methods": {"patchvae": ["demo"]},
            "probes": {"linear": ["toy"]},
        },
        {
            "train": "toy",
            "methods": {"vae": ["demo"], "random_init": ["demo"], "raw_pixels": ["paper"]},
            "probes": {"linear": ["toy"]},
        },
        {
            "train": "toy",
            "methods": {"patchvae": ["demo"], "raw_pixels": ["paper"]},
            "probes": {"classify": ["toy"]},
        },
        {
            "train": "toy",
            "methods": {"random_keypoints": ["paper"]},
            "probes": {"landmarks": ["toy"]},
        },
        {"train": "toy", "methods": {"random_parts": ["demo"]}, "probes": {"parts": ["toy"]}},
    ],
}
REPORT = {"report", "all"}


def changed(**settings: dict[str, Any]) -> dict[str, Any]:
    """Return the tiny configuration with other settings of some methods."""
    config = copy.deepcopy(TINY)
    for method, values in settings.items():
        config["settings"][method] |= values
    return config


def rules(jobs: Iterable[Job]) -> list[str]:
    return sorted(job.rule for job in jobs)


def assert_only(jobs: list[Job], method: str, expected: list[str]) -> None:
    """The jobs are one method's and the report's, of exactly these rules."""
    assert rules(jobs) == sorted(expected)
    for job in jobs:
        assert job.rule in {*REPORT, "configuration"} or f"/{method}/" in job.output, job


VAE = ["train_vae", "extract", "probe_linear", "report", "all"]
PATCHVAE = [
    *2 * ["train_patchvae", "extract", "probe_linear"],
    *("probe_classify", "report", "all"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout with the finished results of the tiny configuration, to be copied."""
    here = Checkout(tmp_path_factory.mktemp("finished") / "partbench")
    here.make(here.configure(TINY), "--cores", "2")
    return here


@pytest.mark.timeout(1800)
def test_workflow_from_first_run_to_repair(finished: Checkout, tmp_path: Path) -> None:
    """One story, since every step needs what the one before it left."""
    here = Checkout(tmp_path / "partbench", copied=finished)
    tiny = "tiny.yaml"
    page = here.folder / "report/tiny/index.html"
    assert page.stat().st_size > 10_000
    metrics = here.metrics("tiny")
    assert set(metrics["status"]) == {"done", "not applicable"}
    done = metrics[metrics["status"] == "done"].drop_duplicates(["method", "seed", "probe"])
    assert len(done) == len(CELLS)
    misfit = metrics[metrics["status"] == "not applicable"]
    assert list(misfit["method"] + " " + misfit["probe"]) == ["raw_pixels classify"]

    assert "Nothing to be done" in here.make(tiny)
    assert_only(here.planned(tiny, "-R", "train_patchvae"), "patchvae", PATCHVAE)

    here.configure(changed(vae={"beta": 2.0}))
    assert_only(here.planned(tiny), "vae", [*VAE, "configuration"])

    fails_and_is_repaired(here)


@pytest.mark.timeout(1800)
def test_snakemakes_own_report_explains_what_it_holds(finished: Checkout, tmp_path: Path) -> None:
    here = Checkout(tmp_path / "partbench", copied=finished)
    said = here.make("tiny.yaml", "--report", "run.html")
    for file in ("index.html", "metrics.csv", "summary.csv", "comparisons.csv"):
        assert f"Adding {file} " in said
    page = (here.folder / "run.html").read_text()
    captions = sorted((here.folder / "workflow/captions").iterdir())
    assert len(captions) == 5
    for caption in captions:
        assert caption.read_text().splitlines()[0] in page, caption.name
    assert "configuration is called tiny" in page


def fails_and_is_repaired(here: Checkout) -> None:
    """A loss that is not finite fails its own cells only, until the setting is mended."""
    config = changed(vae={"learning_rate": 1e30}, random_init={"encoder_width": 12})
    arguments = ["--cores", "1", "--configfile", here.configure(config), "--keep-going"]
    failed = here.run("snakemake", *arguments)
    assert failed.returncode != 0
    metrics = here.metrics("tiny").set_index("method")
    assert metrics.loc["vae", "status"] == "failed"
    assert "vae/demo/toy/0: all/" in metrics.loc["vae", "reason"]
    assert "Lower the learning rate" in metrics.loc["vae", "reason"]
    assert metrics.loc["random_init", "status"] == "done"
    page = here.folder / "report/tiny/failures.html"
    assert "Lower the learning rate" in page.read_text()

    # A failure is tried again, even when nothing has changed: a full disk leaves no other trace.
    tiny = "tiny.yaml"
    assert_only(here.planned(tiny), "vae", VAE)

    here.configure(changed(random_init={"encoder_width": 12}))
    assert_only(here.planned(tiny), "vae", [*VAE, "configuration"])
    here.make(tiny)
    assert set(here.metrics("tiny")["status"]) == {"done", "not applicable"}
    assert "Lower the learning rate" not in page.read_text()
    assert here.planned(tiny) == []


CELLS = [
    *("linear patchvae/0", "linear patchvae/1", "linear vae/0", "linear random_init/0"),
    *("linear raw_pixels/0", "classify patchvae/0"),
    *("landmarks random_keypoints/0", "parts random_parts/0"),
]


def cells(*patterns: str) -> list[str]:
    """Return the jobs that measure again the tiny configuration's cells that match a pattern."""
    chosen = [cell for cell in CELLS if any(re.match(pattern, cell) for pattern in patterns)]
    extracted = [cell for cell in chosen if not cell.startswith("classify")]
    return ["report", "all", *(f"extract {c}" for c in extracted), *(f"probe {c}" for c in chosen)]


def runs(*methods: str) -> list[str]:
    """Return the jobs that train methods again, and all that follows."""
    chosen = {run for cell in CELLS if (run := cell.split()[1]).partition("/")[0] in methods}
    return [*(f"train {run}" for run in chosen), *cells(*(rf"\w+ {run}" for run in chosen))]


EVERYTHING = runs(*{cell.split()[1].partition("/")[0] for cell in CELLS})


def named(job: Job) -> str:
    """Return a job's name as `cells` and `runs` write it."""
    place = r"results/tiny/\w+/(\w+)/\w+/toy/(\d)/(?:toy/(\w+)|model.pt)"
    if not (of := re.match(place, job.output)):
        return job.rule
    method, seed, probe = of.groups()
    return " ".join(filter(None, [job.rule.partition("_")[0], probe, f"{method}/{seed}"]))


def nothing_of_substance(here: Checkout) -> None:
    """Edit all that cannot change a number: a new clone, reformatted, with other words."""
    for path in (here.folder / "partbench").rglob("*.py"):
        path.write_text(f"# A comment.\n{ast.unparse(ast.parse(path.read_text()))}\n")
    here.configure(TINY)
    for path in (here.folder / "partbench").rglob("page.*"):
        os.utime(path)
    for path in ("nn/pyramid.py", "train.py", "probes/linear.py", "data/toy.py", "methods/vae.py"):
        file = here.folder / "partbench" / path
        file.write_text(re.sub(r'"""(?=\w)', '"""Other words: ', file.read_text()))
    here.edit("methods/zhang.py", "forward")
    here.edit("data/cub.py", "sample")
    here.edit("probes/video.py", "run")
    here.edit("progress.py", "advance")
    (here.folder / "partbench/methods/mine.py").write_text("x = 1\n")


def new_probe(here: Checkout) -> None:
    probes = here.folder / "partbench/probes"
    shutil.copy(probes / "linear.py", probes / "again.py")
    config = copy.deepcopy(TINY)
    config["runs"][0]["probes"]["again"] = ["toy"]
    here.configure(config)


def no_probe(here: Checkout) -> None:
    here.configure({**TINY, "runs": [run for run in TINY["runs"] if "parts" not in run["probes"]]})


def setting(here: Checkout) -> None:
    here.configure(changed(vae={"beta": 2.0}))


def probe_setting(here: Checkout) -> None:
    here.configure({**TINY, "probes": TINY["probes"] | {"linear": {"cs": [0.01]}}})


def edit(path: str, function: str) -> Callable[[Checkout], None]:
    return lambda here: here.edit(path, function)


RERUNS: dict[str, tuple[Callable[[Checkout], None], list[str]]] = {
    "nothing of substance": (nothing_of_substance, []),
    "preparation": (edit("data/prepare.py", "prepare"), ["prepare", *EVERYTHING]),
    "training loop": (edit("train.py", "train"), EVERYTHING),
    "method": (edit("methods/vae.py", "forward"), runs("vae")),
    "shared layer": (edit("nn/pyramid.py", "pyramid_decoder"), runs("patchvae", "vae")),
    "setting": (setting, ["configuration", *runs("vae")]),
    "extraction": (edit("extract.py", "extract"), cells("linear", "landmarks", "parts")),
    "writer of an output": (edit("outputs/keypoints.py", "write"), cells("landmarks")),
    "layer of two writers": (edit("nn/tps.py", "warp"), cells("landmarks", "parts")),
    "metric": (edit("metrics/accuracy.py", "label_ranks"), cells("linear", "classify")),
    "probe": (edit("probes/linear.py", "run"), cells("linear")),
    "probe's setting": (probe_setting, ["configuration", *cells("linear")]),
    "added probe": (
        new_probe,
        [
            *("configuration", "report", "all"),
            *(f"{verb} again patchvae/{seed}" for verb in ("extract", "probe") for seed in (0, 1)),
        ],
    ),
    "removed probe": (no_probe, ["configuration", "report", "all"]),
    "page": (edit("report/page.py", "write"), ["report", "all"]),
}


@pytest.mark.timeout(1800)
def test_an_edit_reruns_what_it_can_change(finished: Checkout, tmp_path: Path) -> None:
    checkouts = []
    for what, (change, _) in RERUNS.items():
        checkouts.append(Checkout(tmp_path / what / "partbench", copied=finished))
        change(checkouts[-1])

    def planned(here: Checkout) -> list[str]:
        return sorted(named(job) for job in here.planned("tiny.yaml"))

    with ThreadPoolExecutor(2) as pool:  # a dry run takes seconds
        plans = dict(zip(RERUNS, pool.map(planned, checkouts), strict=True))
    assert plans == {what: sorted(jobs) for what, (_, jobs) in RERUNS.items()}


@pytest.mark.timeout(300)
def test_mistakes_stop_before_any_job(tmp_path: Path) -> None:
    here = Checkout(tmp_path / "partbench")
    mistakes = {
        "unknown key 'seed'; did you mean 'seeds'?": {**TINY, "seed": [0]},
        "unknown key 'learning_rte'; did you mean 'learning_rate'?": changed(
            vae={"learning_rte": 1.0}
        ),
        "no 'patchvea' in partbench/methods/; did you mean 'patchvae'?": {
            **TINY,
            "runs": [{**TINY["runs"][0], "methods": {"patchvea": ["demo"]}}],
        },
    }
    for message, config in mistakes.items():
        found = here.run("snakemake", "--cores", "1", "--configfile", here.configure(config))
        assert found.returncode != 0
        assert "tiny.yaml" in found.stdout
        assert message in found.stdout
        assert "Traceback" not in found.stdout
        assert not (here.folder / "results").exists()


@pytest.mark.timeout(300)
def test_paper_configuration_is_planned_from_a_clone(tmp_path: Path) -> None:
    here = Checkout(tmp_path / "partbench")
    for profile in ([], ["--profile", "slurm"]):
        found = here.run("snakemake", "--cores", "8", *profile, "--dry-run", "--quiet", "rules")
        assert found.returncode == 0, found.stdout
        for rule in ("train_patchvae", "probe_classify", "report"):
            assert rule in found.stdout
    assert not (here.folder / "results").exists()


@pytest.mark.timeout(300)
def test_results_go_to_another_directory_and_code_comes_from_the_checkout(tmp_path: Path) -> None:
    here = Checkout(tmp_path / "partbench")
    with (here.folder / "partbench/provenance.py").open("a") as file:
        file.write("PACKAGES = ('numpy',)\n")  # a mark of this checkout's code
    # Python would prefer a package in the working directory.
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "partbench").mkdir(parents=True)
    (elsewhere / "partbench/__init__.py").write_text("raise ImportError('the wrong partbench')\n")
    runs = [
        {"train": "toy", "methods": {"raw_pixels": ["paper"]}, "probes": {"linear": ["toy"]}},
    ]
    config = here.folder / here.configure({**TINY, "runs": runs})
    arguments = ["--snakefile", str(here.folder / "Snakefile"), "--directory", str(elsewhere)]
    made = here.run(
        *("snakemake", "--cores", "1", "--configfile", str(config), *arguments), cwd=tmp_path
    )
    assert made.returncode == 0, made.stdout
    assert (elsewhere / "report/tiny/index.html").exists()
    assert not {"results", "report"} & {path.name for path in here.folder.iterdir()}
    cell = elsewhere / "results/tiny/cells/raw_pixels/paper/toy/0/toy/linear.json"
    record = json.loads(cell.read_text())["provenance"]
    assert set(record["versions"]) == {"python", "numpy"}
    assert re.fullmatch("[0-9a-f]{12}", record["code"])
    again = here.run(
        *("snakemake", "--dry-run", "--configfile", str(config), *arguments), cwd=elsewhere
    )
    assert "Nothing to be done" in again.stdout
    papers = here.run("snakemake", "--dry-run", "--quiet", "rules", *arguments, cwd=elsewhere)
    assert papers.returncode == 0, papers.stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["paper", "demo", "subset"])
def test_plan_and_check(name: str, tmp_path: Path) -> None:
    here = Checkout(tmp_path / "partbench")
    plan = here.run("partbench", "plan", f"config/{name}.yaml")
    assert plan.returncode == 0, plan.stdout
    assert "patchvae" in plan.stdout
    assert "\ntotal" in plan.stdout
    assert "Disk for prepared data" in plan.stdout
    check = here.run("partbench", "check", f"config/{name}.yaml")
    assert check.returncode == 0, check.stdout
    assert "CPU" in check.stdout
    assert "disk" in check.stdout
    if name == "paper":
        assert "lacks imagenet" in check.stdout


@pytest.mark.timeout(300)
def test_the_profiles_are_where_snakemake_looks(tmp_path: Path) -> None:
    """`--profile NAME` reads ./NAME/config.yaml, and nothing merges into it silently."""
    assert not (REPOSITORY / "profiles").exists()
    here = Checkout(tmp_path / "partbench")
    for profile in ("workstation", "laptop"):
        arguments = ["--cores", "8", "--profile", profile, "--configfile", here.configure(TINY)]
        planned = here.run("snakemake", *arguments, "--dry-run")
        assert planned.returncode == 0, planned.stdout
        memory = {int(mib) for mib in re.findall(r"mem_mb=(\d+)", planned.stdout)}
        assert max(memory) == {"workstation": 16_000, "laptop": 12_000}[profile]


def test_the_table_of_resources_names_rules() -> None:
    """A misspelt rule would be ignored."""
    table = yaml.safe_load((REPOSITORY / "slurm/config.yaml").read_text())["set-resources"]
    known = {f"train_{name}" for name in plugins.names("methods", Method)}
    known |= {f"probe_{name}" for name in plugins.names("probes", Probe)}
    assert set(table) <= known | {"prepare", "foreground", "extract"}


PREDICTED: dict[str, Any] = {
    **TINY,
    "name": "found",
    "data": {**TINY["data"], "toy-found": {"of": "toy", "by": "principal_foreground/demo/toy/0"}},
    "settings": {"kmeans": {"k": 2}},
    "probes": {},
    "runs": [
        {
            "train": "toy-found",
            "methods": {"kmeans": ["demo"]},
            "probes": {"parts": ["toy-found"]},
        }
    ],
}


@pytest.mark.timeout(300)
def test_a_foreground_is_found_by_a_run_of_the_workflow(tmp_path: Path) -> None:
    here = Checkout(tmp_path / "partbench")
    config = here.configure(PREDICTED)
    assert rules(here.planned(config)) == sorted(
        [
            *("configuration", "fetch", "prepare", "train_principal_foreground", "foreground"),
            *("train_kmeans", "extract", "probe_parts", "report", "all"),
        ]
    )
    here.make(config)
    metrics = here.metrics("found")
    assert set(metrics["status"]) == {"done"}
    settings = set(metrics["setting"])
    assert {"K = 2", "K = 2, predicted foreground"} <= settings
    assert "Nothing to be done" in here.make(config)


SCENES: dict[str, Any] = {
    **TINY,
    "name": "scenes",
    "data": {
        "toy": {**TINY["data"]["toy"], "kind": "scenes", "val": 11},
        "toy-scenes": {"of": "toy", "neighbours": {"network": "random", "side": 16}},
    },
    "settings": {},
    "probes": {},
    "runs": [
        {
            "train": "toy-scenes",
            "methods": {"random_init": ["demo"]},
            "probes": {"linear": ["toy-scenes"]},
        }
    ],
}


@pytest.mark.timeout(300)
def test_neighbours_are_found_once_and_again_when_their_settings_change(tmp_path: Path) -> None:
    here = Checkout(tmp_path / "partbench")
    made = "results/scenes/data/toy-scenes/meta.json"
    target = ("--", made)
    here.make(here.configure(SCENES), *target)
    assert (here.folder / made).with_name("neighbours.png").exists()
    assert "Nothing to be done" in here.make(here.configure(SCENES), *target)
    other = copy.deepcopy(SCENES)
    other["data"]["toy-scenes"]["neighbours"]["clusters"] = 1
    assert rules(here.planned(here.configure(other), *target)) == ["scenes"]
    module = here.folder / "partbench/nn/nearest.py"
    module.write_text(module.read_text().replace("BASE = 1 << 16", "BASE = 1 << 15"))
    assert rules(here.planned(here.configure(SCENES), *target)) == ["scenes"]
    alexnet = copy.deepcopy(SCENES)
    alexnet["data"]["toy-scenes"]["neighbours"] = {"network": "alexnet"}
    planned = rules(here.planned(here.configure(alexnet), *target))
    assert planned == ["fetch_weights", "scenes"]


FAILING = {
    "name": "failing",
    "comparable": False,
    "seeds": [0],
    "runtime": {"device": "cpu", "threads": 1},
    "data": {
        "toy": {"reader": "toy", "size": 32, "train": 48, "val": 1, "test": 32},
        "larger": {"reader": "toy", "size": 40, "train": 8, "val": 1, "test": 8},
        "found": {"of": "larger", "by": "principal_foreground/demo/toy/0"},
        "mine": {"reader": "folder", "size": 32, "path": "absent"},
        "stl10": {"reader": "stl10", "size": 32},
        "indoor67": {"reader": "indoor67", "size": 32},
    },
    "runs": [
        {"train": data, "methods": {method: [variant]}, "probes": {probe: [data]}}
        for data, method, variant, probe in (
            ("toy", "random_init", "demo", "linear"),
            ("mine", "random_init", "demo", "linear"),
            ("stl10", "random_init", "demo", "linear"),
            ("indoor67", "random_init", "demo", "linear"),
            ("toy", "dino_kmeans", "paper", "parts"),
            ("found", "random_parts", "demo", "parts"),
            ("toy", "keynet", "paper", "landmarks"),
            ("toy", "dff", "paper", "parts"),
        )
    ],
}


@pytest.mark.timeout(600)
def test_every_stage_that_fails_says_why_on_the_page(tmp_path: Path) -> None:
    here = Checkout(tmp_path / "partbench")
    archives = here.folder / "partbench/data/archives.py"
    archives.write_text(archives.read_text().replace("https://", "https://127.0.0.1:9/"))
    fetch = here.folder / "partbench/data/fetch.py"
    fetch.write_text(fetch.read_text().replace("ATTEMPTS = 6", "ATTEMPTS = 1"))
    arguments = ["--cores", "2", "--configfile", here.configure(FAILING), "--keep-going"]
    ended = here.run("snakemake", *arguments)
    assert ended.returncode != 0
    metrics = here.metrics("failing").set_index(["method", "train"])
    page = html.unescape((here.folder / "report/failing/failures.html").read_text())
    for cell, reason in {
        ("random_init", "mine"): "absent/test: no such folder",
        ("random_init", "stl10"): "stl10_binary.tar.gz cannot be fetched",
        ("random_parts", "found"): "trained at 32 px",
        ("keynet", "toy"): "vgg16-397923af.pth cannot be fetched",
        ("dff", "toy"): "vgg19-dcbb9e9d.pth cannot be fetched",
    }.items():
        assert metrics.loc[cell, "status"] == "failed"
        assert reason in metrics.loc[cell, "reason"]
        assert reason in page
    assert metrics.loc[("random_init", "toy"), "status"] == "done"
    assert "No reason was recorded" not in page
    # What waits for files that a person places was not tried.
    for cell, lacks in {
        ("random_init", "indoor67"): "the data set indoor67 lacks indoorCVPR_09.tar",
        ("dino_kmeans", "toy"): "data/weights/dino_deitsmall8_pretrain.pth is missing",
    }.items():
        assert metrics.loc[cell, "status"] == "skipped"
        assert metrics.loc[cell, "reason"].startswith(lacks)
        assert metrics.loc[cell, "reason"] in page
        assert metrics.loc[cell, "reason"].splitlines()[0] in ended.stdout
    assert "cells: 1 done, 5 failed, 2 skipped\n" in ended.stdout
    assert "  log: results/failing/logs/fetch/stl10.log\n" in ended.stdout
    assert not (here.folder / "results/failing/logs/fetch/indoor67.log").exists()
