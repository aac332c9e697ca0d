"""What missing seeds would cost."""

from pathlib import Path
from typing import Any

import pytest
import torch

from partbench import config, step_cost
from partbench import method as methods
from partbench.config import check
from partbench.files import write_json
from partbench.integrity import write_record
from partbench.plan import SeedCost, cost_of_seeds, plan, run_plans, seed_lines
from partbench.run import Run
from partbench.throughput import Throughput

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
    plans, unknown = run_plans(CONFIG, 1e-3, NOTHING_RAN)
    assert not unknown
    of_vae = plans[Run("vae", "demo", "toy", 0)].hours
    of_patchvae = plans[Run("patchvae", "demo", "toy", 0)].hours
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
            check(VALUES | {"runs": [block | {"probes": of_run}]}, "test"), 1e-3, NOTHING_RAN
        )[0][run].hours
        for of_run in probes
    )
    assert without is not None
    assert probed is not None
    assert 0 < without < probed


def test_rates_are_those_of_the_runs_at_hand(tmp_path: Path) -> None:
    """Of the method's own runs, else of all, damaged records aside; and the plan says which."""
    write_json(tmp_path / "test/config.json", VALUES)
    cost = step_cost.of_training("vae", settings_of("demo"), config.data_info(CONFIG, "toy"))
    for seed, (variant, speed) in enumerate([("demo", 100.0), ("demo", 300.0), ("demo", 200.0)]):
        run = Run("vae", variant, "toy", seed)
        write_record(
            tmp_path / f"test/runs/{run}/train.json",
            {
                "run": run._asdict(),
                "settings": settings_of(variant).model_dump(mode="json"),
                "images_per_second": speed,
                "runtime": {"devices": 1},
                "provenance": {"device": "a card", "cpu": "a processor"},
            },
        )
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
    assert "CPU hours" in text or torch.cuda.is_available()


def settings_of(variant: str) -> Any:
    return methods.resolve(methods.load("vae"), variant, {}, "test")
