"""What missing seeds would cost."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from partbench import method as methods
from partbench import plugins, step_cost, unprepared
from partbench.config import check
from partbench.data.loader import Schedule
from partbench.integrity import write_record
from partbench.plan import SeedCost, cost_of_seeds, plan, run_plans, seed_lines
from partbench.run import Run
from partbench.throughput import Kind, Throughput

VALUES: dict[str, Any] = {
    "name": "test",
    "seeds": [0],
    "data": {"toy": {"reader": "toy"}},
    "runs": [
        {"train": "toy", "methods": {"vae": ["demo", "demo+lw"]}, "probes": {"linear": ["toy"]}},
        {
            "train": "toy",
            "methods": {"vae": ["demo+beta"]},
            "seeds": [0, 1, 2],
            "probes": {"linear": ["toy"]},
        },
        {
            "train": "toy",
            "methods": {"patchvae": ["demo"]},
            "seeds": [0, 1],
            "probes": {"classify": ["toy"]},
        },
    ],
}
CONFIG = check(VALUES, "test")
NOTHING_RAN = Throughput(Path("no results"))
RATES: dict[Kind, float] = {"GPU": 1e-3}


def test_missing_seeds_cost_as_much_as_those_that_are_there() -> None:
    hours = {
        Run("a", "paper", "toy", 0): 2.0,
        Run("a", "paper", "toy", 1): 3.0,
        Run("a", "k8", "toy", 0): 4.0,
        Run("a", "paper", "more", 0): None,
        Run("b", "paper", "toy", 0): 1.0,
        Run("b", "paper", "toy", 1): 1.0,
        Run("b", "paper", "toy", 2): 1.0,
        Run("c", "paper", "toy", 0): 1.0,
    }
    judged = {("a", "paper", "toy"), ("a", "k8", "toy"), ("b", "paper", "toy")}
    judged |= {("a", "paper", "more"), ("not", "in", "it")}
    assert cost_of_seeds(hours, judged) == [
        SeedCost("a", "paper", "toy", 2, 2.5),
        SeedCost("a", "k8", "toy", 1, 8.0),
        SeedCost("a", "paper", "more", 1, None),
    ]
    assert cost_of_seeds(hours, set()) == []


def test_the_lines_of_the_plan() -> None:
    title = "compared with published numbers, fewer than 3 seeds"
    assert seed_lines([SeedCost("a", "k8", "toy", 1, 8.0), SeedCost("b", "x", "cub", 2, None)]) == [
        "",
        f"{title}  seeds GPU hours more",
        f"{'a k8 on toy':{len(title)}}  {1:5} {'8.00':>14}",
        f"{'b x on cub':{len(title)}}  {2:5} {'unknown':>14}",
        f"{'total':{len(title)}}  {'':5} {'8.00':>14}",
    ]
    assert seed_lines([]) == []


def test_the_plan_says_what_verdicts_would_take() -> None:
    assert "fewer than 3 seeds" not in plan(CONFIG, 1e-3, results=Path("no results"))
    judged = {("vae", "demo", "toy"), ("vae", "demo+beta", "toy"), ("patchvae", "demo", "toy")}
    lines = plan(CONFIG, 1e-3, judged, results=Path("no results")).splitlines()
    start = next(i for i, line in enumerate(lines) if "fewer than 3 seeds" in line)
    assert [line.split()[:4] for line in lines[start + 1 : -1]] == [
        *(["vae", "demo", "on", "toy"], ["patchvae", "demo", "on", "toy"])
    ]
    plans, unknown = run_plans(CONFIG, RATES, NOTHING_RAN)
    assert not unknown
    of_vae = plans[Run("vae", "demo", "toy", 0)].hours("GPU")
    of_patchvae = plans[Run("patchvae", "demo", "toy", 0)].hours("GPU")
    assert of_vae
    assert of_patchvae
    more = [float(line.split()[-1]) for line in lines[start + 1 :]]
    expected = [2 * of_vae, of_patchvae, 2 * of_vae + of_patchvae]
    assert more == pytest.approx(expected, abs=0.0051)


def test_the_hours_of_a_run_hold_its_probes() -> None:
    """The probe `classify` trains the encoder again: with it, a run takes longer."""
    run = Run("patchvae", "demo", "toy", 0)
    probes = [{"linear": ["toy"]}, {"linear": ["toy"], "classify": ["toy"]}]
    block = {"train": "toy", "methods": {"patchvae": ["demo"]}}
    without, probed = (
        run_plans(
            check(VALUES | {"runs": [block | {"probes": of_run}]}, "test"), RATES, NOTHING_RAN
        )[0][run].hours("GPU")
        for of_run in probes
    )
    assert without is not None
    assert probed is not None
    assert 0 < without < probed


def test_rates_are_those_of_the_runs_at_hand(tmp_path: Path) -> None:
    """Of the method's own runs, else of all, damaged records aside; and the plan says which."""
    write_record(tmp_path / "test/config.json", VALUES)
    cost = step_cost.of_training("vae", settings_of("demo"), unprepared.info(CONFIG, "toy"))
    for seed, speed in enumerate([100.0, 300.0, 200.0]):
        ran(tmp_path, Run("vae", "demo", "toy", seed), speed, "a card")
    known = Throughput(tmp_path)
    own = known.rate("GPU", "vae", 1.0)
    assert own.flops == pytest.approx(200 * cost.flops / settings_of("demo").batch_size)
    assert own.source == "measured 3 runs, 0.5 to 1.5 times"
    assert known.rate("GPU", "bigan", 1.0).source.startswith("as other methods, 3 runs")
    assert known.rate("CPU", "vae", 7.0) == (7.0, "assumed")
    text = plan(CONFIG, 1e-3, results=tmp_path)
    assert "measured 3 runs" in next(line for line in text.splitlines() if "vae demo on" in line)
    damaged = tmp_path / "test/runs/vae/demo/toy/0/train.json"
    damaged.write_text(damaged.read_text().replace("100.0", "900.0"))
    assert Throughput(tmp_path).rate("GPU", "vae", 1.0).source.startswith("measured 2 runs")


def test_a_run_that_fits_no_card_is_said_so() -> None:
    assert " yes " in plan(CONFIG, 1e-3, results=Path("no results"))
    text = plan(CONFIG, 1e-3, gpu_memory=1.0, results=Path("no results"))
    lines = [line for line in text.splitlines() if line.startswith(("vae", "patchvae"))]
    assert lines
    assert all(" no " in line for line in lines)
    assert "GPU hours" in text
    assert "CPU hours" in text or torch.cuda.is_available()


def test_a_processor_s_rate_is_that_of_a_core(tmp_path: Path) -> None:
    write_record(tmp_path / "test/config.json", VALUES)
    cost = step_cost.of_training("vae", settings_of("demo"), unprepared.info(CONFIG, "toy"))
    ran(tmp_path, Run("vae", "demo", "toy", 0), 100.0, "a processor")
    rate = Throughput(tmp_path).rate("CPU", "vae", 1.0).flops
    assert rate == pytest.approx(100 / 4 * cost.flops / settings_of("demo").batch_size)


def test_a_plan_runs_no_code_that_results_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(plugins.VARIABLE, "")
    strange = tmp_path / "strange"
    (strange / "methods").mkdir(parents=True)
    (strange / "methods/stranger.py").write_text("raise RuntimeError\n")
    runs = [VALUES["runs"][0] | {"methods": {"stranger": ["paper"], "vae": ["demo"]}}]
    for name, blocks in (("own", VALUES["runs"]), ("other", runs)):
        write_record(
            tmp_path / f"results/{name}/config.json",
            VALUES | {"runs": blocks, "plugins": [str(strange)]},
        )
        ran(tmp_path / "results", Run("vae", "demo", "toy", 0), 100.0, "a card", name)
    known = Throughput(tmp_path / "results")
    assert known.rate("GPU", "vae", 1.0).source == "measured 1 run"
    assert not os.environ[plugins.VARIABLE]


def test_a_run_on_images_that_are_not_there_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither their number is known nor, if files name the landmarks, the memory of a step."""
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    reader = {"reader": "folder", "path": "own", "size": 64}
    blocks = [{"train": "own", "methods": {"vae": ["demo"]}, "probes": {"reconstruction": ["own"]}}]
    memory = {}
    for name, more in (("plain", {}), ("annotated", {"annotations": ["marks.csv"]})):
        chosen = check(VALUES | {"data": {"own": {**reader, **more}}, "runs": blocks}, "test")
        plans, unknown = run_plans(chosen, RATES, NOTHING_RAN)
        assert unknown == {"own"}
        (of_run,) = plans.values()
        assert of_run.hours("GPU") is None
        memory[name] = of_run.bytes
        assert "unknown" in plan(chosen, results=Path("no results"))
    assert memory["plain"]
    assert memory["annotated"] is None


def test_own_images_are_counted_where_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more of them than `limit` keeps, and none is opened."""
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    for split, n in (("train", 150), ("test", 3)):
        (tmp_path / "own" / split).mkdir(parents=True)
        for i in range(n):
            (tmp_path / "own" / split / f"{i}.jpg").touch()
    (tmp_path / "own/train/notes.txt").touch()
    blocks = [{"train": "own", "methods": {"vae": ["demo"]}, "probes": {"reconstruction": ["own"]}}]
    hours = []
    for limit, kept in (({}, 150), ({"train": 60, "test": 9}, 60)):
        own = {"reader": "folder", "path": "own", "size": 64, "limit": limit}
        chosen = check(VALUES | {"data": {"own": own}, "runs": blocks}, "test")
        counts = unprepared.counts(chosen, "own")
        assert counts == {"train": kept, "test": 3}
        assert unprepared.disk(chosen, "own", counts) == (kept + 3) * 3 * 64**2
        plans, unknown = run_plans(chosen, RATES, NOTHING_RAN)
        assert not unknown
        ((run, of_run),) = plans.items()
        settings = settings_of("demo")
        cost = step_cost.of_training("vae", settings, unprepared.info(chosen, "own"))
        assert of_run.flops == Schedule(kept, settings, run.seed).steps * cost.flops
        hours.append(of_run.hours("GPU"))
    assert hours[0] > hours[1] > 0
    (tmp_path / "own/train/loose").mkdir()  # a class folder beside images, which `check` names
    assert unprepared.counts(chosen, "own") == {}


def ran(results: Path, run: Run, speed: float, device: str, name: str = "test") -> None:
    write_record(
        results / name / f"runs/{run}/train.json",
        {
            "run": run._asdict(),
            "settings": settings_of(run.variant).model_dump(mode="json"),
            "images_per_second": speed,
            "runtime": {"devices": 1, "threads": 4},
            "provenance": {"device": device, "cpu": "a processor"},
        },
    )


def settings_of(variant: str) -> Any:
    return methods.resolve(methods.load("vae"), variant, {}, "test")
