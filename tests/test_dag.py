"""The workflow from start to end, in a copy of the repository: what runs again, and when."""

import ast
import copy
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from checkout import REPOSITORY, Checkout, Job

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


@pytest.mark.timeout(900)
def test_workflow_from_first_run_to_repair(tmp_path: Path) -> None:
    """One story, since every step needs what the one before it left."""
    here = Checkout(tmp_path / "partbench")
    tiny = here.configure(TINY)

    here.make(tiny)
    page = here.folder / "report/tiny/index.html"
    assert page.stat().st_size > 10_000
    metrics = here.metrics("tiny")
    assert set(metrics["status"]) == {"done", "not applicable"}
    done = metrics[metrics["status"] == "done"].drop_duplicates(["method", "seed", "probe"])
    assert len(done) == 6
    misfit = metrics[metrics["status"] == "not applicable"]
    assert list(misfit["method"] + " " + misfit["probe"]) == ["raw_pixels classify"]

    assert "Nothing to be done" in here.make(tiny)
    assert_only(here.planned(tiny, "-R", "train_patchvae"), "patchvae", PATCHVAE)

    source = here.folder / "partbench/methods/vae.py"
    before = source.read_text()
    os.utime(source)
    assert here.planned(tiny) == []
    source.write_text(before + "# An edit.\n")
    assert_only(here.planned(tiny), "vae", VAE)
    source.write_text(before)

    here.configure(changed(vae={"beta": 2.0}))
    assert_only(here.planned(tiny), "vae", [*VAE, "configuration"])

    fails_and_is_repaired(here)


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
    page = (here.folder / "report/tiny/index.html").read_text()
    assert "Lower the learning rate" in page

    # A failure is tried again, even when nothing has changed: a full disk leaves no other trace.
    tiny = "tiny.yaml"
    assert_only(here.planned(tiny), "vae", VAE)

    here.configure(changed(random_init={"encoder_width": 12}))
    assert_only(here.planned(tiny), "vae", [*VAE, "configuration"])
    here.make(tiny)
    assert set(here.metrics("tiny")["status"]) == {"done", "not applicable"}
    assert "Lower the learning rate" not in (here.folder / "report/tiny/index.html").read_text()
    assert here.planned(tiny) == []


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


@pytest.mark.parametrize("package", ["methods", "data", "probes", "nn"])
def test_imports_are_written_as_the_workflow_reads_them(package: str) -> None:
    """`from partbench.nn.tps import warp`: then a change of nn/tps.py trains a method again."""
    for path in (REPOSITORY / "partbench" / package).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [
                alias.name for alias in getattr(node, "names", ()) if isinstance(node, ast.Import)
            ]
            assert not [name for name in names if name.startswith("partbench")], path
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, path
                if path.name not in ("catalogue.py", "fetch.py"):  # not part of a reader
                    assert node.module not in ("partbench.nn", f"partbench.{package}"), path


def test_the_profile_is_where_snakemake_looks() -> None:
    """`--profile slurm` reads ./slurm/config.yaml, and nothing merges into it silently."""
    assert (REPOSITORY / "slurm/config.yaml").exists()
    assert not (REPOSITORY / "profiles").exists()


FOUND: dict[str, Any] = {
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
    config = here.configure(FOUND)
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
