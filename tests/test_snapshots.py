"""Models kept on the way of a training, and the Frechet distance over them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_generation import FEW, task_of, values
from test_training import CPU, small, stop_at

from partbench.errors import BadInput
from partbench.model import load_model, snapshots
from partbench.probes.generation import Generation, GenerationSettings
from partbench.report.page import environment
from partbench.report.read import Data
from partbench.report.section import sections
from partbench.run import Run, Runtime
from partbench.train import Stopped, train

KEPT = CPU.model_copy(update={"snapshots": (0, 2, 3, 9)})
"""Of three epochs, the third is the result, and there is no ninth."""


def trained(
    data: Path, out: Path, runtime: Runtime = KEPT, name: str = "vae", **changes: Any
) -> Path:
    train(Run(name, "paper", "toy", 0), small(name, **changes), runtime, data, out)
    return out / "model.pt"


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_model(model, "cpu")[1].state_dict()


def same(one: Path, other: Path) -> bool:
    pair = weights(one), weights(other)
    return all(torch.equal(pair[0][key], pair[1][key]) for key in pair[0].keys() | pair[1].keys())


@pytest.fixture(scope="module")
def model(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tiny, tmp_path_factory.mktemp("vae"))


def test_a_snapshot_is_the_model_of_a_shorter_training(
    model: Path, tiny: Path, tmp_path: Path
) -> None:
    kept = snapshots(model)
    assert list(kept) == [0, 2]
    for epochs in kept:
        assert same(kept[epochs], trained(tiny, tmp_path / str(epochs), CPU, epochs=epochs))
    assert not same(kept[2], model)


def test_snapshots_change_nothing_of_the_result(model: Path, tiny: Path, tmp_path: Path) -> None:
    plain = trained(tiny, tmp_path, CPU)
    assert same(model, plain)
    assert not snapshots(plain)


def test_a_stopped_training_keeps_the_same_ones(
    model: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (3, 9):
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(Stopped):
                trained(tiny, tmp_path)
    again = trained(tiny, tmp_path)
    assert list(snapshots(again)) == [0, 2]
    assert all(same(path, snapshots(again)[epoch]) for epoch, path in snapshots(model).items())


def test_those_of_another_training_are_removed(tiny: Path, tmp_path: Path) -> None:
    first = trained(tiny, tmp_path)
    first.unlink()
    only = KEPT.model_copy(update={"snapshots": (1,)})
    assert list(snapshots(trained(tiny, tmp_path, only, epochs=2))) == [1]


def test_a_method_that_generates_nothing_keeps_none(tiny: Path, tmp_path: Path) -> None:
    assert not snapshots(trained(tiny, tmp_path, name="supervised"))


def test_the_probe_follows_the_distance(model: Path, tiny: Path, tmp_path: Path) -> None:
    settings = GenerationSettings.parse(FEW, "test")
    found = Generation().run(model, tiny, settings, 0, "cpu")
    distances = found.details["training"]
    assert list(distances) == ["0", "2", "3"]
    assert distances["3"] == values(found, n=32)["fd_random"]
    shorter = trained(tiny, tmp_path, CPU, epochs=2)
    alone = Generation().run(shorter, tiny, settings, 0, "cpu")
    assert distances["2"] == pytest.approx(values(alone, n=32)["fd_random"], rel=1e-9)
    assert alone.details["training"] == {}


def test_a_damaged_snapshot_is_named(model: Path, tiny: Path, tmp_path: Path) -> None:
    for path in (model, snapshots(model)[2]):
        (tmp_path / path.name).write_bytes(path.read_bytes()[: -300 if path != model else None])
    with pytest.raises(BadInput, match=r"epoch_2\.pt is damaged"):
        Generation().run(
            tmp_path / "model.pt", tiny, GenerationSettings.parse(FEW, "test"), 0, "cpu"
        )


def test_the_section_draws_it_beside_the_neighbours(
    model: Path, tiny: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "neighbours.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture)
    task = task_of(tmp_path / "generation.json", model, tiny)
    data = Data("toy", {}, None, None, neighbours=picture)
    view = sections()["generation"].view(task._replace(data=data))
    assert view is not None
    distances = task.methods[0].cells[0].record["details"]["training"]
    title, chart = view["charts"][1]
    assert title == "distance over training"
    assert f"{distances['0']:.4g} after epoch 0, {distances['3']:.4g} after epoch 3" in chart
    template: Any = environment().get_template("sections/generation.html").module
    assert str(view["neighbours"]) in str(template.task(view))
    without = sections()["generation"].view(task)
    assert without is not None
    assert "Neighbours" not in str(template.task(without))


@pytest.mark.parametrize("wrong", [[-1], [1.5], ["1"], 3])
def test_epochs_that_are_none_are_refused(wrong: Any) -> None:
    with pytest.raises(BadInput, match="snapshots"):
        Runtime.parse({"snapshots": wrong}, "runtime")
