"""A flipped bit in any file that partbench wrote is found, or changes no number."""

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from partbench import cli, config
from partbench.settings import dump

CONFIG = {
    "name": "flips",
    "comparable": False,
    "seeds": [0],
    "runtime": {"device": "cpu", "threads": 1},
    "data": {"toy": {"reader": "toy", "size": 32, "train": 40, "val": 1, "test": 40}},
    "settings": {
        "vae": {
            **{"encoder_width": 8, "decoder_width": 8, "latent": 8},
            **{"batch_size": 8, "epochs": 2},
        }
    },
    "probes": {"linear": {"cs": [0.01]}},
    "runs": [{"train": "toy", "methods": {"vae": ["demo"]}, "probes": {"linear": ["toy"]}}],
}
RUN = "vae/demo/toy/0"
CELL = f"{RUN}/toy/linear"
FLIPS = 6
"""Of each kind of file."""
KINDS = {
    "prepared image": ("data/toy/test.images.npy", "extract"),
    "annotation": ("data/toy/train.labels.npy", "probe"),
    "checksums of data": ("data/toy/checksums.json", "extract"),
    "record of data": ("data/toy/meta.json", "extract"),
    "model": (f"runs/{RUN}/model.pt", "extract"),
    "checkpoint": (f"runs/{RUN}/checkpoint.pt", "train"),
    "outputs": (f"outputs/{CELL}/test.features.npy", "probe"),
    "checksums of outputs": (f"outputs/{CELL}/checksums.json", "probe"),
    "record of a training": (f"runs/{RUN}/train.json", "report"),
    "log of a training": (f"runs/{RUN}/log.jsonl", "report"),
    "cell": (f"cells/{CELL}.json", "report"),
    "per-sample table": (f"cells/{CELL}.parquet", "report"),
    "pictures": (f"cells/{CELL}.pictures.npz", "report"),
    "configuration": ("config.json", "report"),
}
"""Kind -> a file of it, and the first stage that reads it."""


def commands(results: Path) -> dict[str, list[str]]:
    """Return the command of each stage, in order."""
    settings = config.check(CONFIG, "test")
    # A checkpoint after each step.
    runtime = dump(settings.runtime.model_copy(update={"checkpoint_minutes": 1e-9}))
    data, model = f"{results}/data/toy", f"{results}/runs/{RUN}/model.pt"
    outputs, pictures = f"{results}/outputs/{CELL}", f"{results}/cells/{CELL}.pictures.npz"
    of_data = dump(config.data_settings(settings, "toy"))
    of_method = dump(config.method_settings(settings, "vae", "demo"))
    of_probe = dump(config.probe_settings(settings, "linear", "toy"))
    written = [
        f"configuration|--json|{json.dumps(CONFIG)}|--out|{results}/config.json",
        f"prepare|--data-set|toy|--reader|toy|--settings|{of_data}|--out|{data}",
        f"train|--run|{RUN}|--settings|{of_method}|--data|{data}|--runtime|{runtime}"
        f"|--out|{results}/runs/{RUN}",
        f"extract|--model|{model}|--data|{data}|--needs|features|--runtime|{runtime}"
        f"|--outputs|{outputs}|--pictures|{pictures}",
        f"probe|linear|--run|{RUN}|--source|{outputs}|--data|{data}|--settings|{of_probe}"
        f"|--runtime|{runtime}|--out|{results}/cells/{CELL}.json",
        f"report|--results|{results}|--out|{results}/index.html",
    ]
    return {command.partition("|")[0]: command.split("|") for command in written}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("whole") / "flips"
    for command in commands(results).values():
        assert cli.main(command) == 0
    return results


@pytest.fixture(scope="module")
def stopped(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, but for a training that was stopped before its end."""
    results = tmp_path_factory.mktemp("stopped") / "flips"
    shutil.copytree(whole, results)
    for name in ("model.pt", "train.json"):
        (results / "runs" / RUN / name).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("partbench.train._Training._finish", lambda *_: None)
        assert cli.main(commands(results)["train"]) == 0
    assert (results / "runs" / RUN / "checkpoint.pt").exists()
    return results


def numbers(results: Path) -> list[tuple[str, str, str]]:
    """Return the numbers on the page, which are those of the table."""
    table = pd.read_csv(results / "metrics.csv", dtype=str, keep_default_na=False)
    done = table[table["status"] == "done"]
    return list(done[["metric", "setting", "value"]].itertuples(False, None))


def outcomes(whole: Path, stopped: Path, folder: Path, kind: str) -> Iterator[str]:
    """Flip a bit in copies of one file; yield found, harmless or changed."""
    name, first = KINDS[kind]
    source = stopped if kind == "checkpoint" else whole
    draw = random.Random(kind)
    for i in range(FLIPS):
        results = folder / f"{kind} {i}" / "flips"
        shutil.copytree(source, results)
        content = bytearray((results / name).read_bytes())
        if not content:
            yield "harmless"
            continue
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (results / name).write_bytes(content)
        stages = commands(results)
        ran = list(stages)[list(stages).index(first) :]
        statuses = [cli.main(stages[stage]) for stage in ran]
        aside = (results / "runs" / RUN).glob("*.damaged")
        if any(statuses) or any(aside):
            assert any(statuses) or numbers(results) == numbers(whole)
            yield "found"
        else:
            yield "harmless" if numbers(results) == numbers(whole) else "changed"
        shutil.rmtree(results)


def test_no_flipped_bit_changes_a_number(
    whole: Path, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert numbers(whole)
    table = pd.DataFrame(
        {kind: Counter(outcomes(whole, stopped, tmp_path, kind)) for kind in KINDS}
    ).T.reindex(columns=["found", "harmless", "changed"])
    table = table.fillna(0).astype(int)
    errors = capsys.readouterr().err
    with capsys.disabled():
        print(f"\n{table}")
    assert "Traceback" not in errors
    assert not table["changed"].any()
    sealed = table.drop(["model", "checkpoint", "log of a training", "pictures"])
    assert (sealed["found"] >= FLIPS - 2).all()  # a flip in white space is harmless


def test_verify_reads_everything(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "flips"
    shutil.copytree(whole, results)
    assert cli.main(["verify", str(results)]) == 0
    table = capsys.readouterr().out
    for kind, n in {"prepared data": 24, "models": 1, "cells": 1, "pictures": 1}.items():
        assert re.search(rf"^{kind} +{n} +0$", table, re.MULTILINE), table
    names = [name for kind, (name, _) in KINDS.items() if kind != "checkpoint"]
    # States of a training and of probes that train, while they do.
    states = [
        f"runs/{RUN}/{name}.pt"
        for name in ("checkpoint", "classify-toy.conv1.9", "transfer-toy.encoder.frozen")
    ]
    for name in states:
        for folder in (whole, results):
            shutil.copy(whole / "runs" / RUN / "model.pt", folder / name)
    assert cli.main(["verify", str(results)]) == 0
    assert re.search(r"^checkpoints +3 +0$", capsys.readouterr().out, re.MULTILINE)
    for name in [*names, *states]:
        content = bytearray((results / name).read_bytes())
        content[len(content) // 2] ^= 4
        (results / name).write_bytes(content)
        assert cli.main(["verify", str(results)]) == 1
        assert Path(name).name in capsys.readouterr().err
        shutil.copy(whole / name, results / name)
    assert cli.main(["verify", str(tmp_path)]) == 1
    assert "has no config.json" in capsys.readouterr().err
