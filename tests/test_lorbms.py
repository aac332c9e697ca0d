"""LORBMS: the rule of mixing, the terms of its losses, what each update sees, that it learns."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from partbench import method as methods
from partbench.data.batch import Batch
from partbench.data.neighbours import candidates
from partbench.data.prepared import Prepared
from partbench.errors import BadInput
from partbench.method import DataInfo
from partbench.methods.lorbms import LORBMS, replaced_quadrants
from partbench.model import load_model
from partbench.outputs.generated_images import seed_of
from partbench.probes.generation import Generation, GenerationSettings
from partbench.report.sections.generation import strips_of
from partbench.run import Run, Runtime
from partbench.step_cost import of_training
from partbench.train import train

CPU = Runtime(device="cpu", threads=1, precision="32-true")
SMALL = {
    "code": 8,
    "first": 6,
    "growth": 4,
    "dense_layers": (2, 2, 2),
    "discriminator_width": 4,
    "discriminator_layers": 3,
    "classifier_width": 2,
    "classifier_hidden": 16,
    "batch_size": 32,
    "images_per_epoch": None,
    "epochs": 2,
}


def small(variant: str = "paper", **changes: Any) -> Any:
    return methods.resolve(LORBMS, variant, SMALL | changes, "test")


def made(size: int = 32, variant: str = "paper", **changes: Any) -> LORBMS:
    torch.manual_seed(0)
    return LORBMS(small(variant, **changes), DataInfo(size, 0))


def batch_of(n: int, size: int = 32) -> Batch:
    draw = torch.Generator().manual_seed(1)
    return Batch(
        torch.rand(n, 3, size, size, generator=draw),
        None,
        candidates=torch.rand(n, 4, 3, size, size, generator=draw),
        distances=torch.rand(n, 4, generator=draw) * 30_000,
    )


# The rule of mixing.

SOME = st.sampled_from([0, 1, 2, 16_000, 16_001, 4e4]) | st.floats(0, 5e4, width=32)
DISTANCES = arrays(np.float32, (5, 4), elements=SOME)


@given(DISTANCES, st.floats(0.5, 5e4))
def test_one_to_three_quadrants_are_replaced_and_only_similar_ones(
    distances: NDArray[np.float32], threshold: float
) -> None:
    replaced = replaced_quadrants(torch.from_numpy(distances), threshold).numpy()
    assert replaced.any(1).all()  # at least one is replaced
    assert not replaced.all(1).any()  # at least one stays
    similar = distances <= np.float32(threshold)
    nearest = distances == distances.min(1, keepdims=True)
    assert (similar | nearest)[replaced].all()
    assert ((replaced & ~similar).sum(1) <= 1).all()
    # What is not replaced is the farthest, or beyond the threshold.
    farthest = distances == distances.max(1, keepdims=True)
    assert (~similar | farthest)[~replaced].all()


@given(
    st.permutations(range(4)),
    st.lists(st.floats(1, 5e4, width=32), min_size=4, max_size=4, unique=True),
    st.floats(0.5, 5e4, width=32),
)
def test_the_rule_is_that_of_the_code_where_no_distances_are_equal(
    order: list[int], values: list[float], threshold: float
) -> None:
    """A quadrant stays iff it is the farthest or beyond the threshold, and not the nearest."""
    distances = [values[i] for i in order]
    stays = [
        (d == max(distances) or d > threshold) and d != min(distances) for d in distances
    ]  # fmt: skip
    replaced = replaced_quadrants(torch.tensor([distances]), threshold)
    assert replaced[0].tolist() == [not kept for kept in stays]


def test_equal_distances_replace_all_but_the_last() -> None:
    same = torch.full((1, 4), 5.0)
    assert replaced_quadrants(same, 16_000)[0].tolist() == [True, True, True, False]
    assert replaced_quadrants(same, 1)[0].tolist() == [True, False, False, False]


@pytest.mark.parametrize("size", [32, 64])
def test_a_mixed_code_has_each_quadrant_of_its_image(size: int) -> None:
    method, batch = made(size), batch_of(6, size)
    assert batch.candidates is not None
    scenes = method.mix(batch)
    assert 6 <= scenes.replaced.sum() <= 18
    half = size // 16
    for i in range(6):
        codes = method.encoder(
            method.normalize(torch.cat([batch.images[i : i + 1], batch.candidates[i]]))
        )
        torch.testing.assert_close(scenes.codes[i], codes[0], atol=1e-4, rtol=1e-4)
        for quadrant in range(4):
            rows = slice(half * (quadrant // 2), half * (quadrant // 2 + 1))
            columns = slice(half * (quadrant % 2), half * (quadrant % 2 + 1))
            source = codes[1 + quadrant if scenes.replaced[i, quadrant] else 0]
            torch.testing.assert_close(
                scenes.mixed_codes[i, :, rows, columns], source[:, rows, columns],
                atol=1e-4, rtol=1e-4,
            )  # fmt: skip


def test_a_scene_mixed_of_one_image_is_its_reconstruction() -> None:
    method = made().eval()
    images = batch_of(3).images
    same = images[:, None].expand(-1, 4, -1, -1, -1)
    batch = Batch(images, None, candidates=same, distances=torch.rand(3, 4))
    torch.testing.assert_close(method.generate(batch), method.reconstruct(images))


# The losses, from their definitions.


def test_the_generator_s_loss_has_every_term_with_its_weight() -> None:
    method, batch = made().double(), _double(batch_of(4))
    assert batch.candidates is not None
    torch.nn.init.normal_(method.encoder.last.weight, std=3)  # so that codes matter
    x, replaced = 2 * batch.images - 1, method.mix(batch).replaced
    code = method.encoder(x)
    mixed_code, kept = code.clone(), code.clone()
    for i, quadrant in replaced.nonzero().tolist():
        place = (slice(None), *_cells(quadrant))
        mixed_code[(i, *place)] = method.encoder(2 * batch.candidates[i] - 1)[(quadrant, *place)]
    scene = method.decoder(mixed_code).double()
    again = method.encoder(scene)
    for i, quadrant in (~replaced).nonzero().tolist():
        place = (i, slice(None), *_cells(quadrant))
        kept[place] = again[place]
    direct = (method.decoder(code) - x).abs().mean()
    through = (method.decoder(kept) - x).abs().mean()
    logits = method.discriminator(scene)
    verdict = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
    error = _classifier_error(method, scene, batch, replaced)
    expected = {
        "loss": 0.904 * (direct + through) + 0.052 * verdict + 0.044 * error,
        "reconstruction": direct,
        "reconstruction_through_scene": through,
        "adversarial": verdict,
        "classification": error,
    }
    wrong = (method.decoder(mixed_code) - x).abs().mean()
    assert abs(through - direct) > 1e-4 * direct
    assert abs(through - wrong) > 1e-4 * direct
    found = method.generator_loss(batch)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-5), name


def _double(batch: Batch) -> Batch:
    return Batch(*(None if field is None else field.double() for field in batch))


def _cells(quadrant: int) -> tuple[slice, slice]:
    row, column = divmod(quadrant, 2)
    return slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2)


def _classifier_error(method: LORBMS, scene: Tensor, batch: Batch, replaced: Tensor) -> Tensor:
    """A quarter of each candidate's error, which is the mean over the four quadrants."""
    assert batch.candidates is not None
    total = torch.zeros((), dtype=torch.float64)
    for j in range(4):
        truth = torch.zeros(len(scene), 4, dtype=torch.float64)
        truth[:, j] = replaced[:, j].double()
        pair = torch.cat([scene, 2 * batch.candidates[:, j] - 1], 1)
        total += 0.25 * F.binary_cross_entropy_with_logits(method.classifier(pair), truth)
    return total


def test_the_classifier_s_loss_is_a_mean_in_the_code_and_a_sum_in_the_thesis() -> None:
    batch = batch_of(4)
    values = {}
    for pairs in ("mean", "sum"):
        method = made(pairs=pairs).double()
        double = _double(batch)
        values[pairs] = method(double, "classifier")["loss"].item()
        scenes = method.mix(double)
        scene = method.decoder(scenes.mixed_codes).double()
        expected = _classifier_error(method, scene, double, scenes.replaced).item()
        assert values[pairs] == pytest.approx((4 if pairs == "sum" else 1) * expected, rel=1e-5)
    assert methods.resolve(LORBMS, "thesis", {}, "test").pairs == "sum"


def test_the_discriminator_tells_images_from_scenes() -> None:
    method, batch = made(), batch_of(4)
    found = method(batch, "discriminator")
    scene = method.decoder(method.mix(batch).mixed_codes)
    real, fake = method.discriminator(2 * batch.images - 1), method.discriminator(scene)
    expected = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    expected += F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("phase", ["generator", "classifier", "discriminator"])
def test_each_update_has_a_gradient_for_its_own_networks(phase: str) -> None:
    method = made()
    method(batch_of(4), phase)["loss"].backward()
    own = {
        "generator": (method.encoder, method.decoder),
        "classifier": (method.classifier,),
        "discriminator": (method.discriminator,),
    }[phase]
    for network in own:
        assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    if phase != "generator":
        assert all(p.grad is None for p in method.encoder.parameters())
        assert all(p.grad is None for p in method.decoder.parameters())
    optimised = method.optimizers()[phase].param_groups[0]["params"]
    assert sum(p.numel() for p in optimised) == sum(p.numel() for n in own for p in n.parameters())


@pytest.mark.parametrize(
    ("variant", "weights"),
    [
        ("ten_epochs", (0.904, 0.052, 0.044)),
        ("no_rec", (0, 0.052, 0.044)),
        ("no_adv", (0.904, 0, 0.044)),
        ("no_cls", (0.904, 0.052, 0)),
    ],
)
def test_an_ablation_leaves_out_one_term(variant: str, weights: tuple[float, float, float]) -> None:
    s = methods.resolve(LORBMS, variant, {}, "test")
    assert (s.reconstruction, s.adversarial, s.classification) == weights
    assert s.epochs == 10
    method = made(variant=variant)
    terms = method(batch_of(4), "generator")
    expected = weights[0] * (terms["reconstruction"] + terms["reconstruction_through_scene"])
    expected += weights[1] * terms["adversarial"] + weights[2] * terms["classification"]
    assert terms["loss"].item() == pytest.approx(expected.item())


# The steps.


class Recorder:
    """Keeps what each update of a training sees."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[str, Batch]] = []
        self.u: list[Tensor] = []
        forward = LORBMS.forward

        def spy(method: LORBMS, batch: Batch, phase: str) -> dict[str, Tensor]:
            self.seen.append((phase, batch))
            self.u.append(method.decoder.last.u.clone())
            return forward(method, batch, phase)

        monkeypatch.setattr(LORBMS, "forward", spy)


def run(data: Path, out: Path, seed: int = 0, **changes: Any) -> LORBMS:
    train(Run("lorbms", "paper", "toy", seed), small(**changes), CPU, data, out)
    method = load_model(out / "model.pt", "cpu")[1]
    assert isinstance(method, LORBMS)
    return method


def test_every_update_of_a_step_sees_its_own_images(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    run(tiny, tmp_path, epochs=1)
    assert [phase for phase, _ in recorder.seen] == 2 * [
        "generator", "generator", "classifier", "discriminator"
    ]  # fmt: skip
    images = torch.cat([batch.images for _, batch in recorder.seen])
    assert len(images) == TINY["train"]
    assert len(images.flatten(1).unique(dim=0)) == TINY["train"]
    for _, batch in recorder.seen:
        assert len(batch.images) == 8
        assert batch.candidates is not None
        assert batch.candidates.shape[:2] == (8, 4)


def test_spectral_norms_advance_once_a_step(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    run(tiny, tmp_path, epochs=1)
    first, second = recorder.u[:4], recorder.u[4:]
    assert all(torch.equal(u, first[0]) for u in first)
    assert all(torch.equal(u, second[0]) for u in second)
    assert not torch.equal(first[0], second[0])


def test_only_the_classifier_s_rate_falls_every_20_000_steps() -> None:
    method = made()
    rates = {name: o.param_groups[0] for name, o in method.optimizers().items()}
    for step in range(19_999, 40_002):
        if step in (19_999, 20_000, 20_001, 40_000, 40_001):
            method.after_step(step)
    assert rates["classifier"]["lr"] == pytest.approx(2e-4 * 0.9**2)
    assert rates["generator"]["lr"] == 2e-4
    assert rates["discriminator"]["lr"] == 4e-4
    assert {tuple(group["betas"]) for group in rates.values()} == {(0.5, 0.999)}


def test_it_learns_to_reconstruct_and_to_find_the_candidates(tiny: Path, tmp_path: Path) -> None:
    images = Prepared(tiny).split("test").images
    shown = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2) / 255
    errors = {}
    for epochs in (0, 1, 12):
        out = tmp_path / str(epochs)
        rates = {"generator_rate": 4e-3, "classifier_rate": 2e-3}
        method = run(tiny, out, epochs=epochs, batch_size=16, **rates)
        with torch.inference_mode():
            errors[epochs] = (method.reconstruct(shown) - shown).abs().mean().item()
    assert errors[12] < 0.85 * errors[0]
    assert errors[12] < errors[1] < errors[0]
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    found = [line["classifier/loss"] for line in lines]
    assert np.mean(found[-8:]) < 0.8 * np.mean(found[:8])


# The threshold.


def passes(distances: NDArray[np.float32]) -> Any:
    def once() -> Iterator[Batch]:
        for part in np.array_split(distances, 3):
            yield Batch(torch.zeros(len(part), 3, 1, 1), None, distances=torch.from_numpy(part))

    return once


@pytest.mark.parametrize("quantile", [0.01, 0.25, 0.5, 0.8, 1.0])
def test_a_quantile_sets_the_threshold(quantile: float) -> None:
    distances = np.random.default_rng(0).gamma(2, 100, (40, 4)).astype(np.float32)
    method = made(threshold_quantile=quantile)
    method.fit(passes(distances))
    expected = np.quantile(distances, quantile, method="inverted_cdf")
    assert method.tau.item() == pytest.approx(float(expected))
    assert "tau" in method.state_dict()


def test_a_threshold_of_another_scale_is_refused() -> None:
    distances = np.full((6, 4), 17_000, np.float32)
    with pytest.raises(BadInput, match=r"nearest is at 17000.*`threshold_quantile`"):
        made().fit(passes(distances))
    distances[-1, 2] = 15_999
    method = made()
    method.fit(passes(distances))
    assert method.tau == 16_000


# What it refuses, and what it offers.


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(BadInput, match="'batch_size' is 14: the 4 updates of a step share it"):
        small(batch_size=14)


@pytest.mark.parametrize(("size", "multiple"), [(96, 64), (48, 64)])
def test_images_without_whole_quadrants_are_refused(size: int, multiple: int) -> None:
    settings = methods.resolve(LORBMS, "paper", {"code": 4, "first": 2, "growth": 1}, "test")
    with pytest.raises(BadInput, match=f"`size` that is a multiple of {multiple}"):
        LORBMS(settings, DataInfo(size, 0))


def test_its_trunks_take_images_of_any_size() -> None:
    with torch.device("meta"):
        settings = methods.resolve(LORBMS, "paper", {}, "test")
        trunks = LORBMS(settings, DataInfo(64, 0)).trunks()
        shapes = {name: trunk(torch.zeros(2, 3, 96, 96)).shape for name, trunk in trunks.items()}
    assert shapes == {"encoder": (2, 1_728), "discriminator": (2, 12_096)}


def test_its_features_are_those_of_the_encoder() -> None:
    method, images = made().eval(), batch_of(3).images
    expected = method.trunks()["encoder"](2 * images - 1)
    torch.testing.assert_close(method.features(images), expected)


def test_the_parameters_of_the_whole_are_those_of_the_thesis() -> None:
    with torch.device("meta"):
        method = LORBMS(methods.resolve(LORBMS, "paper", {}, "test"), DataInfo(64, 0))
    assert sum(p.numel() for p in method.parameters()) == 54_644_286


def test_scenes_of_test_images_repeat_themselves(tiny: Path, tmp_path: Path) -> None:
    method = run(tiny, tmp_path, epochs=1)
    split = Prepared(tiny).split("test")
    images = torch.from_numpy(np.array(split.images[:5])).permute(0, 3, 1, 2) / 255
    scenes = []
    for _ in range(2):
        found, distances = candidates(split, range(5), method.settings, 0, torch.device("cpu"))
        batch = Batch(images, None, candidates=found, distances=distances)
        with torch.inference_mode():
            scenes.append(method.generate(batch))
    assert torch.equal(*scenes)
    assert scenes[0].shape == (5, 3, 32, 32)


def test_the_generation_probe_shows_what_its_scenes_are_mixed_of(
    tiny: Path, tmp_path: Path
) -> None:
    run(tiny, tmp_path, epochs=0)
    cell: Any = SimpleNamespace(arrays={})
    settings = GenerationSettings(network="random", few=True, only_distance=True)
    found = Generation().run(tmp_path / "model.pt", tiny, settings, 0, "cpu")
    assert found.pictures is not None
    cell.arrays = found.pictures
    assert list(strips_of(cell)) == [
        "real",
        "generated",
        "what the mixed scenes keep of the test images",
        *(f"candidates, {place}" for place in ("top left", "top right", "bottom left")),
        "candidates, bottom right",
        "reconstructions",
    ]
    # The candidates are those that the generated images were made from.
    split, method = Prepared(tiny).split("test"), load_model(tmp_path / "model.pt", "cpu")[1]
    seed = seed_of(0, 0)
    similar, _ = candidates(split, range(20), method.settings, seed, torch.device("cpu"))
    shown = np.stack([found.pictures[f"candidates_{i}"] for i in range(4)], 1)
    np.testing.assert_array_equal((255 * similar).round().permute(0, 1, 3, 4, 2), shown)


def test_the_plan_counts_the_operations_of_a_quarter_of_the_batch_an_update() -> None:
    """Each update counts images of its own, and the gradients of the player that moves alone."""
    settings = small()
    cost = of_training("lorbms", settings, DataInfo(32, 0))
    method = LORBMS(settings, DataInfo(32, 0))
    optimizers = method.optimizers()
    n = settings.batch_size // 4
    with FlopCounterMode(display=False) as counter:
        for phase in method.phases:
            for name, optimizer in optimizers.items():
                for group in optimizer.param_groups:
                    for parameter in group["params"]:
                        parameter.requires_grad_(name == phase)
            method(batch_of_zeros(n), phase)["loss"].backward()
    assert cost.flops == counter.get_total_flops()


def batch_of_zeros(n: int) -> Batch:
    return Batch(
        torch.zeros(n, 3, 32, 32), None,
        candidates=torch.zeros(n, 4, 3, 32, 32), distances=torch.zeros(n, 4),
    )  # fmt: skip
