"""Runs the benchmarks.

    python -m benchmarks                          all, an hour on two cores
    python -m benchmarks loader                   one
    python -m benchmarks linear_probe --folds 10  one, with its own options (--help lists them)

Each prints its ratios beside the times and writes benchmarks/results/<name>.json, on a machine
with a GPU <name>.<card>.json.
"""

import importlib
import sys
from typing import NamedTuple


class Options(NamedTuple):
    """Words of a benchmark's command line."""

    toy: str
    """Those that shrink it to seconds: tests/test_benchmarks.py runs it so."""
    full: str = ""
    """Those of a run of all benchmarks."""


BENCHMARKS = {
    "loader": Options(toy="--images 128 --epochs 1"),
    "preparation": Options(toy="--images 64 --rounds 1 --bytes 80000000"),
    "training_step": Options(toy="--steps 5 --batch 4 --no-compile", full="--steps 10"),
    "methods": Options(toy="--method vae --method bigan --steps 1"),
    "fixed_cost": Options(toy="--rounds 0 --config config/demo.yaml"),
    "cells": Options(toy="--cells 1"),
    "scale": Options(toy="--cells 100"),
    "demo": Options(toy="--config benchmarks/tiny.yaml --cores 1"),
    # Alone, it takes all of its 10 folds.
    "linear_probe": Options(toy="--folds 1 --samples 120 --features 300", full="--folds 1"),
    "svm": Options(toy="--samples 60 --features 500 --classes 3 --test 50"),
    "video_decoding": Options(toy="--clips 3 --rounds 1"),
    "landmark_probe": Options(toy="--repeats 1"),
    "part_metrics": Options(toy="--pixels 4000000 --repeats 1"),
    "rulers": Options(toy="--samples 300 --repeats 1"),
    # Alone, it takes all of its 5,000 images.
    "generation_metrics": Options(toy="--features 64 --images 4 --repeats 1", full="--images 500"),
    "lorbms": Options(toy="--variant demo --steps 2 --batch 4 --no-compile", full="--no-compile"),
    "neighbours": Options(
        toy="--rows 3000 --queries 200 --exact 50 --lists 16 --code 16 --threads 1"
    ),
    "dlp": Options(toy="--size 96 --batch 2 --pairs 2 --turns 0"),
    "dff": Options(toy="--rows 2000"),
    "fisher_vectors": Options(toy="--videos 1 --repeats 1"),
    "unsup_parts": Options(toy="--step --size 64 --batch 3 --turns 1", full="--step"),
}


def main(argv: list[str]) -> int:
    if argv and argv[0] not in BENCHMARKS:
        print((__doc__ or "").strip(), f"\nBenchmarks: {', '.join(BENCHMARKS)}.", sep="\n")
        return int(argv[0] not in ("-h", "--help"))
    full = {name: options.full.split() for name, options in BENCHMARKS.items()}
    chosen = {argv[0]: argv[1:]} if argv else full
    for name, words in chosen.items():
        importlib.import_module(f"benchmarks.{name}").main(words)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
