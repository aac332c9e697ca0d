"""Every method's training step on the card that is there; skipped where there is none."""

import math

import pytest
import torch
from checkout import REPOSITORY

from benchmarks.methods import first_runs
from benchmarks.training_step import Task, Training, Way
from partbench import config as configs
from partbench import method as methods
from partbench import step_cost, unprepared
from partbench.run import Run

CONFIG = configs.read(REPOSITORY / "config/demo.yaml")
RUNS = first_runs(CONFIG)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


def training(run: Run, bf16: bool) -> Training:
    cls, data = methods.load(run.method), unprepared.info(CONFIG, run.train)
    settings = configs.method_settings(CONFIG, run.method, run.variant)
    torch.manual_seed(0)
    batch = step_cost.empty_batch(cls, settings, data)
    batch = batch._replace(images=torch.rand_like(batch.images))
    return Training(Task("", cls, settings, data, [batch]), Way(True, bf16, False), 0, 3, "cuda")


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("name", sorted(RUNS))
def test_steps_on_a_gpu(name: str, bf16: bool) -> None:
    trained = training(RUNS[name], bf16)
    trained.turn()
    assert len(trained.losses) == 3
    assert all(loss.is_cuda and math.isfinite(loss.item()) for loss in trained.losses)
    assert all(parameter.is_cuda for parameter in trained.method.parameters())


@pytest.mark.parametrize("name", sorted(RUNS))
def test_the_same_steps_give_the_same_loss(name: str) -> None:
    """Up to the order in which kernels sum."""
    losses = []
    for _ in range(2):
        trained = training(RUNS[name], bf16=False)
        trained.step()
        losses.append(trained.losses[0].item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
