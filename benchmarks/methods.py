"""How fast each method's training step is: images a second, and the share of the card's bf16 peak.

A step is that of the configuration's first run of a method, at its settings and the size of its
data: forward, backward and optimisers, bf16 autocast and channels-last memory on a GPU, float32 on
the processor. Its operations are those that `partbench plan` counts. The peak is measured, too:
that of a product of large square matrices, in the type of the step. Data are not read; images are
noise.

The default is the paper configuration on a GPU, and the demo without one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import common
from benchmarks.training_step import Task, Training, Way
from partbench import config as configs
from partbench import method as methods
from partbench import step_cost, unprepared
from partbench.config import Config
from partbench.errors import BadInput
from partbench.run import Run

SIDES = {"cuda": 8192, "cpu": 1024}
"""Of the matrices."""
WARM, TIMED = 3, 10
"""Steps."""


def peak(device: str, rounds: int = 5) -> float:
    """Return the operations a second of a product of matrices, the best of some rounds."""
    side = SIDES[device]
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    a, b = torch.rand(2, side, side, device=device, dtype=kind)
    synchronize = torch.cuda.synchronize if device == "cuda" else None
    times = [common.timed(lambda: a @ b, synchronize).wall for _ in range(rounds)]
    return 2 * side**3 / min(times)


def first_runs(config: Config) -> dict[str, Run]:
    """Return the first run of each method that takes steps."""
    found: dict[str, Run] = {}
    for run in configs.runs(config):
        if configs.method_settings(config, run.method, run.variant).epochs:
            found.setdefault(run.method, run)
    return found


def measure(config: Config, run: Run, device: str, timed: int, best: float) -> dict[str, Any]:
    """Return how fast a run's steps are.

    Args:
        config: the configuration.
        run: the run.
        device: "cpu" or "cuda".
        timed: steps.
        best: operations a second of the device, see `peak`.

    Raises:
        BadInput: the step needs weights that are not there.
    """
    cls, data = methods.load(run.method), unprepared.info(config, run.train)
    settings = configs.method_settings(config, run.method, run.variant)
    batch = step_cost.empty_batch(cls, settings, data)
    batch = batch._replace(images=torch.rand_like(batch.images))
    way = Way(channels_last=True, bf16=device == "cuda", compile=False)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    task = Task("methods", cls, settings, data, [batch])
    training = Training(task, way, run.seed, WARM + timed, device)
    while len(training.losses) < training.steps:
        training.turn()
    took = common.median(training.seconds[WARM:])
    flops = step_cost.of_training(run.method, settings, data).flops / took.wall
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else None
    speed = settings.batch_size / took.wall
    share = f"{flops / 1e12:.3g} TFLOP/s, {100 * flops / best:.3g} % of the peak"
    print(f"methods, {run}: {speed:.4g} images/s, {share}", flush=True)
    return {
        **{"step": took.json(), "images_per_second": speed, "flops_per_second": flops},
        **{"share_of_peak": flops / best, "peak_bytes": memory},
    }


def main(argv: Sequence[str] | None = None) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    usual = "config/paper.yaml" if device == "cuda" else "config/demo.yaml"
    parser = common.arguments(__doc__, "methods")
    parser.add_argument("--config", type=Path, default=Path(usual), help="whose runs are taken")
    parser.add_argument("--steps", type=int, default=TIMED, help="that are timed")
    parser.add_argument("--method", action="append", help="only this one; may be given again")
    args = parser.parse_args(argv)
    config = configs.read(args.config)
    chosen = first_runs(config)
    if unknown := {*(args.method or ())} - {*chosen}:
        parser.error(f"no run of {', '.join(sorted(unknown))} takes steps in {args.config}")
    best = peak(device)
    print(f"methods, peak of a product of matrices: {best / 1e12:.3g} TFLOP/s", flush=True)
    result: dict[str, Any] = {}
    for method in args.method or chosen:
        try:
            result[str(chosen[method])] = measure(config, chosen[method], device, args.steps, best)
        except (BadInput, torch.OutOfMemoryError) as error:
            result[str(chosen[method])] = {"left_out": str(error)}
            print(f"methods, {chosen[method]}: left out: {error}", flush=True)
    machine = common.machine(
        device, ("torch", "torchvision"), torch_threads=torch.get_num_threads()
    )
    common.write(args.out, "methods", {"machine": machine, "peak": best, "runs": result})


if __name__ == "__main__":
    main()
