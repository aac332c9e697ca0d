"""The predicted cost of a step against what steps take."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from partbench import method as methods
from partbench import step_cost
from partbench.data.batch import Batch
from partbench.method import DataInfo

DATA = DataInfo(64, 8, 5)


@pytest.fixture(autouse=True)
def _forgetful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(step_cost, "_COUNTS", {})


def step(method: Any, optimizers: dict[str, Any], n: int) -> None:
    batch = Batch(torch.rand(n, 3, 64, 64), torch.zeros(n, dtype=torch.long), torch.rand(n, 5, 3))
    for phase, seen in method.updates(batch):
        optimizers[phase].zero_grad()
        method(seen, phase)["loss"].backward()
        optimizers[phase].step()


def measured_peak(name: str, settings: Any) -> int:
    """Return the most that the processor's allocator holds in a second step, bytes."""
    torch.manual_seed(0)
    method: Any = methods.load(name)(settings, DATA).train()
    optimizers = method.optimizers()
    step(method, optimizers, settings.batch_size)
    state = [value for one in optimizers.values() for each in one.state.values()
             for value in each.values() if isinstance(value, torch.Tensor)]  # fmt: skip
    kept = [*method.parameters(), *method.buffers(), *state]
    kept += [p.grad for p in method.parameters() if p.grad is not None]
    held = sum(tensor.nbytes for tensor in kept)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(method, optimizers, settings.batch_size)
    changes = [event for event in profiler.profiler.kineto_results.events()
               if event.name() == "[memory]"]  # fmt: skip
    peak = now = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return held + peak


@pytest.mark.parametrize("name", ["vae", "patchvae", "supervised", "keynet", "dlp"])
def test_the_predicted_peak_is_within_a_fifth_of_the_measured(name: str) -> None:
    cls = methods.load(name)
    settings = methods.resolve(cls, "demo", {}, "test")
    predicted = step_cost.of_training(name, settings, DATA).bytes
    assert predicted == pytest.approx(measured_peak(name, settings), rel=0.2)


@pytest.mark.parametrize("name", ["vae", "patchvae", "keynet", "bigan"])
def test_operations_that_come_again_cost_what_they_did(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = methods.resolve(methods.load(name), "demo", {}, "test")
    monkeypatch.setattr(step_cost, "_RETURNED", {})
    first = step_cost._training(name, settings, DATA)
    assert step_cost._RETURNED
    assert step_cost._training(name, settings, DATA) == first
    for shortcut in ("_makes", "_overwrites"):
        monkeypatch.setattr(step_cost, shortcut, lambda func: False)
    assert step_cost._training(name, settings, DATA) == first


def test_an_operation_that_comes_again_returns_what_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes, strides and types; views stay views, and tensors of the processor keep content."""
    monkeypatch.setattr(step_cost, "_RETURNED", {})
    x = torch.zeros(2, 3, 8, 8, device="meta").to(memory_format=torch.channels_last)
    for _ in range(2):
        with step_cost.Meter():
            made = [x + 1.5, x > 0, x.half() @ x.half(), *x.max(1), x.sum(), x.permute(1, 0, 2, 3)]
            assert all(view.untyped_storage()._cdata == x.untyped_storage()._cdata
                       for view in (made[-1], x[0], x.reshape(2, 3, 8, 8)))  # fmt: skip
            assert (torch.arange(3) + 1).tolist() == [1, 2, 3]
            plain = x.contiguous()
            assert (plain + 1.5).stride() == (192, 64, 8, 1)
            seen = torch.ops.aten._unsafe_view(plain, (6, 64))  # a view that is not called one
            assert seen.untyped_storage()._cdata == plain.untyped_storage()._cdata
            assert torch.zeros(3).add_(2).tolist() == [2, 2, 2]
            y = torch.empty_like(x)
            assert torch.add(x, 1, out=y) is y
            assert y.mul_(2) is y
            assert y.unsqueeze_(0).shape == (1, 2, 3, 8, 8)
        told = [(y.shape, y.stride(), y.dtype) for y in made]
        assert told == [
            ((2, 3, 8, 8), (192, 1, 24, 3), torch.float32),
            ((2, 3, 8, 8), (192, 1, 24, 3), torch.bool),
            ((2, 3, 8, 8), (192, 64, 8, 1), torch.float16),
            ((2, 8, 8), (64, 8, 1), torch.float32),
            ((2, 8, 8), (64, 8, 1), torch.int64),
            ((), (), torch.float32),
            ((3, 2, 8, 8), (1, 192, 24, 3), torch.float32),
        ]


def test_what_is_frozen_takes_no_backward_pass() -> None:
    def networks(frozen: bool) -> Any:
        front, rear = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        front.requires_grad_(not frozen)
        return [(nn.Sequential(front, rear), 10.0)]

    settings = methods.resolve(methods.load("vae"), "demo", {}, "test")
    front, rear = (2 * 9 * c * 8 * 64**2 for c in (3, 8))
    for frozen, expected in ((True, front + 2 * rear), (False, 2 * front + 3 * rear)):
        flops = step_cost.of_networks(
            "vae", settings, DATA, 64, f"frozen {frozen}", lambda _, f=frozen: networks(f)
        )
        assert flops == 10 * expected


def test_a_count_is_remembered_and_a_damaged_memory_counted_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = methods.resolve(methods.load("vae"), "demo", {}, "test")
    counted = step_cost.of_training("vae", settings, DATA)
    (file,) = step_cost._folder().glob("*.json")
    monkeypatch.setattr(step_cost, "_COUNTS", {})
    count = step_cost._training
    monkeypatch.setattr(step_cost, "_training", None)
    assert step_cost.of_training("vae", settings, DATA) == counted
    monkeypatch.setattr(step_cost, "_training", count)
    monkeypatch.setattr(step_cost, "_COUNTS", {})
    file.write_text(file.read_text()[:5])
    assert step_cost.of_training("vae", settings, DATA) == counted
    other = settings.model_copy(update={"batch_size": 2 * settings.batch_size})
    assert step_cost.of_training("vae", other, DATA).flops == 2 * counted.flops
