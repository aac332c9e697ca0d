"""What missing seeds would cost."""

from typing import Any

import pytest

from partbench.config import check
from partbench.plan import SeedCost, cost_of_seeds, plan, run_hours, seed_lines
from partbench.run import Run

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
    assert "fewer than 3 seeds" not in plan(CONFIG, 1e-3)
    judged = {("vae", "demo", "toy"), ("vae", "demo+beta", "toy"), ("patchvae", "demo", "toy")}
    lines = plan(CONFIG, 1e-3, judged).splitlines()
    start = next(i for i, line in enumerate(lines) if "fewer than 3 seeds" in line)
    assert [line.split()[:4] for line in lines[start + 1 : -1]] == [
        *(["vae", "demo", "on", "toy"], ["patchvae", "demo", "on", "toy"])
    ]
    hours, unknown = run_hours(CONFIG, 1e-3)
    assert not unknown
    of_vae = hours[Run("vae", "demo", "toy", 0)]
    of_patchvae = hours[Run("patchvae", "demo", "toy", 0)]
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
        run_hours(check(VALUES | {"runs": [block | {"probes": of_run}]}, "test"), 1e-3)[0][run]
        for of_run in probes
    )
    assert without is not None
    assert probed is not None
    assert 0 < without < probed
