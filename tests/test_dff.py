"""DFF: the solver against the authors' numbers and scikit-learn, streamed or not; the method."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, prepare_toy, tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_vectors import Vectors
from scipy.optimize import nnls
from sklearn.decomposition import NMF

from partbench import method as methods
from partbench.data.batch import Batch
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.method import DataInfo
from partbench.methods import dff
from partbench.methods.dff import DFF
from partbench.model import load_model
from partbench.nn import perceptual
from partbench.nn.nmf import ahead, factorise, initial
from partbench.run import Run, Runtime
from partbench.train import train

CPU = Runtime(device="cpu", threads=1, precision="32-true")
SMALL = {"perceptual": "mobilenet", "side": None}


def made(rows: int, width: int, rank: int, noise: float = 0.0, seed: int = 0) -> torch.Tensor:
    """Return a non-negative float64 matrix of a rank, with noise."""
    rng = np.random.default_rng(seed)
    v = rng.random((rows, rank)) ** 3 @ rng.random((rank, width)) ** 2
    return torch.from_numpy(v + noise * rng.random((rows, width)))


def start(v: torch.Tensor, factors: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return initial([v], factors)


# The solver.


@pytest.fixture(scope="module")
def vectors(oracles: Path) -> Any:
    return Vectors(oracles / "part_metrics.npz")


@pytest.mark.parametrize("updates", [1, 2, 11, 50])
@pytest.mark.parametrize("rows", [1000, 7])
def test_the_published_updates(vectors: Any, updates: int, rows: int) -> None:
    v, w, h = (tensor(vectors[f"dff_{name}"]) for name in ("V", "W0", "H0"))
    found = factorise(v.split(rows), w, h, updates=updates, tolerance=0)
    assert found.updates == updates
    np.testing.assert_allclose(found.w, vectors[f"dff_W_{updates}"], rtol=1e-8)
    np.testing.assert_allclose(found.h, vectors[f"dff_H_{updates}"], rtol=1e-8)
    assert found.error == pytest.approx((v - found.w @ found.h).norm().item(), rel=1e-10)


@pytest.mark.parametrize("rows", [1000, 7])
def test_the_published_stop(vectors: Any, rows: int) -> None:
    v, w, h = (tensor(vectors[f"dff_{name}"]) for name in ("V", "W0", "H0"))
    found = factorise(v.split(rows), w, h)
    assert found.updates == vectors["dff_n_updates_default"]
    assert found.error == pytest.approx(vectors["dff_error_default"].item(), rel=1e-8)
    np.testing.assert_allclose(found.w, vectors["dff_W_default"], rtol=1e-8)
    np.testing.assert_allclose(found.h, vectors["dff_H_default"], rtol=1e-8)
    assert (v - w @ h).norm().item() == pytest.approx(vectors["dff_error_init"].item(), rel=1e-10)


def test_the_published_updates_with_fixed_factors(vectors: Any) -> None:
    v, w, h = (tensor(vectors[f"dff_{name}"]) for name in ("fixedH_V", "fixedH_W0", "H_default"))
    found = factorise(v.split(6), w, h, fixed=True)
    assert found.updates == vectors["dff_fixedH_n_updates"]
    np.testing.assert_allclose(found.w, vectors["dff_fixedH_W"], rtol=1e-8)
    assert torch.equal(found.h, h)


def test_the_start_is_the_published_one() -> None:
    v = made(20_000, 30, 3)
    w, h = start(v, 4)
    scale = math.sqrt(v.mean().item() / 4)
    for x, shape in ((w, (20_000, 4)), (h, (4, 30))):
        assert x.shape == shape
        assert x.min() >= 0
    assert w.mean().item() == pytest.approx(scale * math.sqrt(2 / math.pi), rel=0.01)
    assert w.square().mean().sqrt().item() == pytest.approx(scale, rel=0.01)
    torch.manual_seed(0)
    again = initial(v.split(777), 4)
    torch.testing.assert_close(again, (w, h), rtol=1e-12, atol=0)


@pytest.mark.parametrize("solver", ["multiplicative", "hals"])
@settings(max_examples=15)
@given(st.integers(2, 40), st.integers(1, 12), st.integers(1, 6), st.integers(0, 99))
def test_updates_never_raise_the_error_nor_leave_the_positive(
    solver: Any, rows: int, width: int, factors: int, seed: int
) -> None:
    v = made(rows, width, 3, 0.2, seed)
    w, h = start(v, factors, seed)
    before = (v - w @ h).norm().item()
    for _ in range(5):
        found = factorise([v], w, h, updates=1, solver=solver)
        w, h = found.w, found.h
        assert w.min() >= 0
        assert h.min() >= 0
        assert found.error <= before * (1 + 1e-9) + 1e-6  # the difference of squares rounds
        assert found.error == pytest.approx((v - w @ h).norm().item(), rel=1e-6, abs=1e-6)
        before = found.error


@pytest.mark.parametrize(("solver", "updates"), [("multiplicative", 40), ("hals", 8)])
def test_blocks_make_no_difference(solver: Any, updates: int) -> None:
    v = made(300, 20, 4, 0.1)
    w, h = start(v, 3)
    whole = factorise([v], w, h, updates=updates, solver=solver)
    for rows in (7, 37, 299):
        parts = factorise(v.split(rows), w, h, updates=updates, solver=solver)
        assert parts.updates == whole.updates
        torch.testing.assert_close(parts.w, whole.w, rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(parts.h, whole.h, rtol=1e-8, atol=1e-12)


def test_a_few_blocks_say_nearly_all_of_the_factors() -> None:
    v = made(3200, 20, 4, 0.3)
    w, h = start(v, 4)
    best = factorise([v], w, h, updates=200, tolerance=1e-9, solver="hals").error
    blocks = v.split(100)
    begun = ahead(blocks, w, h)
    kept = torch.cat([w[:100], w[1600:1700]])
    assert torch.equal(begun, factorise([blocks[0], blocks[16]], kept, h, solver="hals").h)
    errors = [factorise(blocks, w, x, updates=1, solver="hals").error for x in (begun, h)]
    assert errors[0] - best < 0.2 * (errors[1] - best)
    assert torch.equal(ahead(v.split(200), w, h), h)  # a sixteenth is one block


def test_momentum_gets_further_in_as_many_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    v = made(400, 30, 6, 0.3)
    w, h = start(v, 4)
    best = factorise([v], w, h, updates=1000, tolerance=0, solver="hals")
    fast = factorise([v], w, h, updates=30, tolerance=0, solver="hals")
    for _ in range(30):  # alone, each update is the first of its run, which has none
        slow = factorise([v], w, h, updates=1, tolerance=0, solver="hals")
        w, h = slow.w, slow.h
    assert fast.error - best.error < 0.5 * (slow.error - best.error)
    assert fast.error == pytest.approx((v - fast.w @ fast.h).norm().item(), rel=1e-9)
    assert fast.w.min() >= 0
    assert fast.h.min() >= 0


def test_float32_keeps_its_type_and_the_error_s_digits() -> None:
    v = made(5000, 40, 4, 0.2).float()
    w, h = start(v, 4)
    found = factorise(v.split(512), w, h)
    assert (found.w.dtype, found.h.dtype) == (torch.float32, torch.float32)
    exact = (v.double() - found.w.double() @ found.h.double()).norm().item()
    assert found.error == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(("solver", "margin"), [("multiplicative", 1.01), ("hals", 1.001)])
def test_scikit_learn_finds_no_better_factors(solver: Any, margin: float) -> None:
    """Of a matrix of rank K with noise, whose best factors any start leads to."""
    v = made(400, 30, 4, 0.3)
    errors = []
    for name in ("cd", "mu"):
        model = NMF(4, solver=name, init="random", random_state=0, max_iter=2000, tol=1e-7)
        model.fit_transform(v.numpy())
        errors.append(model.reconstruction_err_)
    found = factorise([v], *start(v, 4), updates=2000, tolerance=1e-7, solver=solver)
    assert found.error <= margin * min(errors)


@pytest.mark.parametrize("solver", ["multiplicative", "hals"])
def test_hals_weights_are_the_best_for_fixed_factors(solver: Any) -> None:
    v, h = made(30, 12, 4, 0.3), made(3, 12, 3, seed=1)
    found = factorise(
        [v], torch.ones(30, 3).double(), h, updates=5000, tolerance=0, solver=solver, fixed=True
    )
    best = np.array([nnls(h.numpy().T, row)[0] for row in v.numpy()])
    np.testing.assert_allclose(found.w, best, atol=5e-3 if solver == "multiplicative" else 1e-9)


@pytest.mark.parametrize("solver", ["multiplicative", "hals"])
def test_rows_of_zeros_and_more_factors_than_rank(solver: Any) -> None:
    v = made(60, 10, 2)
    v[::3] = 0
    v[:, 4] = 0
    found = factorise([v], *start(v, 5), updates=400, tolerance=0, solver=solver)
    assert found.w.isfinite().all()
    assert found.h.isfinite().all()
    assert (found.w[::3] @ found.h).abs().max() < 1e-3 * v.max()
    assert found.error < 0.01 * v.norm()
    nothing = torch.zeros_like(v)
    found = factorise([nothing], *start(nothing, 2), solver=solver)
    assert found.error == 0
    assert found.w.isfinite().all()


@pytest.mark.parametrize("solver", ["multiplicative", "hals"])
def test_one_factor_is_the_first_singular_vector(solver: Any) -> None:
    v = made(50, 9, 3, 0.1)
    w, h = start(v, 1)
    kept = w.clone(), h.clone()
    found = factorise([v], w, h, updates=300, tolerance=0, solver=solver)
    assert torch.equal(w, kept[0])
    assert torch.equal(h, kept[1])
    u, values, vt = torch.linalg.svd(v, full_matrices=False)
    torch.testing.assert_close(found.w @ found.h, values[0] * u[:, :1] @ vt[:1])
    assert found.error == pytest.approx(values[1:].norm().item())


# The method.


@pytest.fixture
def eyes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained MobileNet, the same whenever it is opened."""

    def opened(name: str) -> torch.nn.Sequential:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return perceptual.untrained(name).requires_grad_(False).eval()

    monkeypatch.setattr(perceptual, "load", opened)


def build(size: int = 64, **changes: Any) -> DFF:
    torch.manual_seed(0)
    settings = methods.resolve(DFF, "paper", {**SMALL, **changes}, "test")
    return DFF(settings, DataInfo(size, 0)).eval()


def passes_over(images: torch.Tensor, size: int = 8) -> Any:
    def passes() -> Iterator[Batch]:
        return (Batch(part, None) for part in images.split(size))

    return passes


def pictures(n: int = 20, size: int = 64) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.usefixtures("eyes")
def test_fit_is_the_factorisation_of_all_cells() -> None:
    images, method = pictures(), build()
    torch.manual_seed(5)
    method.fit(passes_over(images))
    v = method.activations(images).permute(0, 2, 3, 1).reshape(-1, 128)
    assert len(v) == 20 * 16
    torch.manual_seed(5)
    found = factorise([v], *initial([v], 4))
    torch.testing.assert_close(method.factors, found.h, rtol=1e-3, atol=1e-5)
    again = build()
    torch.manual_seed(5)
    again.fit(passes_over(images))
    assert torch.equal(again.factors, method.factors)


@pytest.mark.usefixtures("eyes")
@pytest.mark.parametrize("solver", ["multiplicative", "hals"])
def test_part_maps_are_heat_maps_over_their_maxima(solver: str) -> None:
    images, method = pictures(), build(solver=solver)
    method.fit(passes_over(images))
    found = method.part_maps(images[:3])
    assert found.foreground is None
    assert found.weights.shape == (3, 4, 64, 64)
    assert found.labels.dtype == torch.int64
    torch.testing.assert_close(found.weights.sum(1), torch.ones(3, 64, 64))
    assert found.weights.min() >= 0
    assert torch.equal(found.weights.argmax(1), found.labels)

    v = method.activations(images[:3]).double()
    w = torch.ones(16, 4).double()
    kept = []
    for i in range(3):
        rows = v[i].permute(1, 2, 0).reshape(16, -1)
        w = factorise(
            [rows],
            torch.ones(16, 4).double(),
            method.factors.double(),
            updates=100,
            tolerance=0,
            solver=solver,
            fixed=True,
        ).w
        heat = torch.nn.functional.interpolate(
            w.T.reshape(1, 4, 4, 4), (64, 64), mode="bilinear"
        ).squeeze(0)
        for k in range(4):
            heat[k] /= max(heat[k].max().item(), 1e-30)
        kept.append(heat / heat.sum(0))
    torch.testing.assert_close(found.weights.double(), torch.stack(kept), atol=2e-3, rtol=0)
    alone = method.part_maps(images[2:3])  # of its own batch
    torch.testing.assert_close(alone.weights, found.weights[2:3], atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("eyes")
def test_a_cell_without_activation_is_shared_evenly() -> None:
    method = build()
    method.factors.copy_(torch.rand(4, 128))
    torch.nn.Module.__setattr__(method, "activations", lambda x: torch.zeros(len(x), 128, 4, 4))
    found = method.part_maps(pictures(2))
    assert torch.equal(found.weights, torch.full((2, 4, 64, 64), 0.25))
    assert torch.equal(found.labels, torch.zeros(2, 64, 64, dtype=torch.long))


@pytest.mark.usefixtures("eyes")
def test_one_factor_takes_everything() -> None:
    method = build(k=1)
    method.fit(passes_over(pictures(4)))
    found = method.part_maps(pictures(1))
    assert not found.labels.any()
    torch.testing.assert_close(found.weights, torch.ones(1, 1, 64, 64))


@pytest.mark.usefixtures("eyes")
def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"40 factors in the 16 cells.*lower `k`"):
        build(k=40).fit(passes_over(pictures(1)))
    broken = pictures(4)
    broken[2, 0, 0, 0] = math.nan
    with pytest.raises(BadInput, match="activations of mobilenet are not finite"):
        build().fit(passes_over(broken))
    monkeypatch.setattr(dff, "describe", lambda *_: -torch.ones(4, 128, 4, 4))
    with pytest.raises(BadInput, match="no activation of mobilenet is positive"):
        build().fit(passes_over(pictures(4)))
    with pytest.raises(BadInput, match="'epochs' is 1"):
        build(epochs=1)


def test_a_missing_network_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path))
    with pytest.raises(BadInput, match="weights of mobilenet"):
        build().fit(passes_over(pictures(2)))


def test_the_paper_s_activations_have_the_paper_s_shape() -> None:
    """196 cells of 512 channels at 224 px, whatever the size of the prepared images."""
    with torch.device("meta"):
        method = DFF(methods.resolve(DFF, "paper", {}, "test"), DataInfo(256, 0))
        assert method.activations(torch.zeros(2, 3, 256, 256)).shape == (2, 512, 14, 14)


@pytest.mark.usefixtures("eyes")
def test_it_finds_parts_of_one_kind_on_any_image(tmp_path: Path) -> None:
    """Trained by the loop: more factors leave less of the activations unexplained."""
    data = prepare_toy(tmp_path, size=64)
    left = []
    for parts in (1, 4):
        out = tmp_path / str(parts)
        settings = methods.resolve(DFF, "paper", {**SMALL, "k": parts}, "test")
        train(Run("dff", "paper", "toy", 0), settings, CPU, data, out)
        method = load_model(out / "model.pt", "cpu")[1]
        assert isinstance(method, DFF)
        images = torch.from_numpy(np.array(Prepared(data).split("test").images))
        v = method.activations(images.permute(0, 3, 1, 2) / 255)
        rows = v.permute(0, 2, 3, 1).reshape(-1, 128)
        assert len(rows) == TINY["test"] * 16
        w = torch.ones(len(rows), parts)
        left.append(factorise([rows], w, method.factors, tolerance=0, fixed=True).error)
    assert left[1] < 0.8 * left[0]
    assert methods.role_of(DFF, settings) == "method"
