"""Runs the benchmarks.

    python -m benchmarks                          all, some minutes
    python -m benchmarks loader                   one
    python -m benchmarks linear_probe --folds 10  one, with its own options (--help lists them)

Each prints its ratios beside the times and writes benchmarks/results/<name>.json, on a machine
with a GPU <name>.<card>.json.
"""

import importlib
import sys

# Alone, the linear probe takes all of its 10 folds.
BENCHMARKS = {
    "loader": (),
    "preparation": (),
    "training_step": (),
    "fixed_cost": (),
    "linear_probe": ("--folds", "1"),
    "landmark_probe": (),
    "dlp": (),
    "dff": (),
    "unsup_parts": (),
}


def main(argv: list[str]) -> int:
    if argv and argv[0] not in BENCHMARKS:
        print((__doc__ or "").strip(), f"\nBenchmarks: {', '.join(BENCHMARKS)}.", sep="\n")
        return int(argv[0] not in ("-h", "--help"))
    chosen = {argv[0]: argv[1:]} if argv else BENCHMARKS
    for name, options in chosen.items():
        importlib.import_module(f"benchmarks.{name}").main(list(options))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
