"""Known deviations: complete, of variants that there are, recorded with a run and on the page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partbench import method as methods
from partbench import plugins
from partbench.deviations import Deviation
from partbench.integrity import read_record, write_record
from partbench.method import Method
from partbench.published import load
from partbench.report import page
from partbench.report.trainings import settings_views
from partbench.run import Run, Runtime
from partbench.train import train

METHODS = plugins.names("methods", Method)


@pytest.mark.parametrize("name", METHODS)
def test_each_is_a_sentence_with_a_source_and_an_effect(name: str) -> None:
    cls = methods.load(name)
    for deviation in cls.deviations:
        for text in (deviation.what, deviation.effect):
            assert text[0].isupper(), text
            assert text.endswith("."), text
            assert len(text) > 4
        assert len(deviation.source) > 4
        assert not deviation.source.endswith(".")
    assert len({deviation.what for deviation in cls.deviations}) == len(cls.deviations)


@pytest.mark.parametrize("name", METHODS)
def test_each_concerns_a_variant_that_there_is(name: str) -> None:
    cls = methods.load(name)
    known = {"paper", *cls.VARIANTS, *cls.REDUCED}
    for deviation in cls.deviations:
        if set(deviation.variants) - known:
            assert deviation.variants == ("indoor67",)  # shared by PatchVAE's methods
        assert any(deviation.concerns(variant) for variant in known)


def test_what_concerns_a_variant() -> None:
    everything = Deviation("A.", "b", "C.")
    birds = everything._replace(variants=("cub", "pascal"), unless=("untrained",))
    concerned = {v: birds.concerns(v) for v in ("cub", "cub+l2", "paper", "k8", "cub+untrained")}
    assert concerned == {
        "cub": True,
        "cub+l2": True,
        "paper": False,
        "k8": False,
        "cub+untrained": False,
    }
    assert everything.concerns("cub+untrained")
    assert not everything.concerns("cub+released")
    assert everything._replace(of_training=False).concerns("cub+released")


@pytest.mark.parametrize(
    ("name", "variant", "part", "there"),
    [
        ("keynet", "k30", "learnt to colour", True),
        ("keynet", "demo", "learnt to colour", False),
        ("unsup_parts", "cub", "ResNet-50", True),
        ("unsup_parts", "cub+swav", "ResNet-50", False),
        ("unsup_parts", "cub", "crops are fixed", False),
        ("unsup_parts", "k8", "crops are fixed", True),
        ("unsup_parts", "pascal", "weights of the terms", True),
        ("unsup_parts", "cub", "weights of the terms", False),
        ("scops", "cub", "released a model", True),
        ("zhang", "k10", "not stated", True),
        ("vae", "cifar100+beta", "beta", True),
        ("vae", "cifar100", "beta", False),
        ("dlp", "k30", "MAFL test faces", True),
        ("dlp", "shapes", "README and scripts", True),
    ],
)
def test_the_deviations_of_a_variant(name: str, variant: str, part: str, there: bool) -> None:
    found = methods.deviations(methods.load(name), variant)
    assert any(part in deviation.what for deviation in found) == there


def test_every_method_of_a_paper_that_trains_or_fits_has_some() -> None:
    """A method that claims to be a paper's and has none would be a first."""
    for name in METHODS:
        cls = methods.load(name)
        if cls.paper and cls.role == "method":
            assert cls.deviations, name


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A results folder with one run of zhang, untrained."""
    from fake_results import make

    folder = make(tmp_path_factory.mktemp("results"))
    run = Run("zhang", "demo", "toy", 0)
    settings = methods.resolve(methods.load("zhang"), "demo", {"epochs": 0}, "test")
    out = folder / "runs" / str(run)
    train(run, settings, Runtime(device="cpu", threads=1), tiny, out)
    config = read_record(folder / "config.json")
    block: dict[str, Any] = {"train": "toy", "methods": {"zhang": ["demo"]}}
    config["runs"].append(block)
    write_record(folder / "config.json", {k: v for k, v in config.items() if k != "sha256"})
    return folder


def test_a_run_s_record_carries_them(results: Path) -> None:
    record = json.loads((results / "runs/zhang/demo/toy/0/train.json").read_text())
    expected = methods.deviations(methods.load("zhang"), "demo")
    assert [d["what"] for d in record["deviations"]] == [d.what for d in expected]
    assert set(record["deviations"][0]) == set(Deviation._fields)


def test_the_page_shows_what_the_record_carries(results: Path, tmp_path: Path) -> None:
    path = results / "runs/zhang/demo/toy/0/train.json"
    record = read_record(path)
    deviation = Deviation("They <do> this; here that.", "nowhere at hand", "Unknown at all.")
    views = settings_views(
        [
            type(
                "Run",
                (),
                {"method": "zhang", "variant": "demo", "train": "toy", "seed": seed,
                 "record": {**record, "deviations": [deviation._asdict()]}},
            )()
            for seed in (0, 1)
        ]
    )  # fmt: skip
    assert [view["seeds"] for view in views] == [[0, 1]]
    assert views[0]["deviations"][0]["what"] == deviation.what
    page.write(results, tmp_path / "index.html", load())
    html = (tmp_path / "method-zhang.html").read_text()
    section = html[html.index("What differs from the paper") :].partition("</section>")[0]
    for shown in record["deviations"]:
        for key in ("what", "source", "effect"):
            assert shown[key].replace("'", "&#39;") in section
    number = len(record["deviations"])
    assert f"{number} known deviations" in section


def test_runs_whose_deviations_differ_are_apart() -> None:
    def record(*known: str) -> Any:
        kept = [Deviation(what, "there", "None.")._asdict() for what in known]
        values = {"method": "m", "variant": "paper", "train": "toy", "seed": len(known)}
        return type("Run", (), {**values, "record": {"changes": {}, "deviations": kept}})()

    views = settings_views([record(), record("A."), record("A.", "B.")])
    assert [len(view["deviations"]) for view in views] == [0, 1, 2]
    assert views[0]["id"] == ""
    assert len(np.unique([view["id"] for view in views])) == 3
