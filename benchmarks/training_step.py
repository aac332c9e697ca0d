"""PatchVAE's training step at the CIFAR-100 settings (32 px, batch 128), made faster in all ways.

The reference is what a user would write first: float32, eager, images and weights NCHW. Against it
channels-last memory and bf16 autocast (float32 weights), alone and together, and torch.compile on
top of channels-last (it lays out memory as it likes, NCHW gains nothing from that). A step is
forward, backward and Adam, on the same images and with the same seed, as the training loop does
it; reading data is not part of it.

All of them take their steps in turn, a few at a time, so that other load on the machine hits all
alike, and the median step is compared. Their 100 steps are one training: the loss over its last 20
steps is compared with the reference's, and with how much that moves when only the seed changes
(three seeds of the reference: initial weights and draws; the images and their order stay). What
differs by no more than the largest difference between seeds counts as the same. A GPU's kernels
make no promise to sum in one order, so there the same seed differs by a little, too.

The first step of a compiled model, compilation without any cache, is timed apart.
"""

import argparse
import shutil
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import common
from partbench.data.batch import Batch
from partbench.data.toy import Toy
from partbench.method import DataInfo, Method, resolve
from partbench.methods.patchvae import PatchVAE

SIZE, BATCH, STEPS, TURN = 32, 128, 100, 5
WARM, LAST = 0.1, 0.2
"""Share of the steps that are not timed, and of those whose loss is compared."""
SEEDS = (0, 1, 2)


class Way(NamedTuple):
    """One way to compute the step."""

    channels_last: bool
    bf16: bool
    compile: bool

    def __str__(self) -> str:
        memory = "channels-last" if self.channels_last else "contiguous"
        return (
            f"{memory} {'bf16' if self.bf16 else 'fp32'} {'compiled' if self.compile else 'eager'}"
        )


REFERENCE = Way(False, False, False)


class Task(NamedTuple):
    """What is trained."""

    name: str
    """Of the benchmark, for the messages."""
    method: type[Method]
    settings: Any
    data: DataInfo
    batches: Sequence[Batch]


class Training:
    """A model that takes its steps `way`; its loss is that of a step's first update."""

    def __init__(self, task: Task, way: Way, seed: int, steps: int, device: str) -> None:
        self.way, self.seed, self.steps, self.device = way, seed, steps, device
        memory = torch.channels_last if way.channels_last else torch.contiguous_format
        clips = task.batches[0].images.ndim > 4
        kept = torch.contiguous_format if clips else memory
        self.batches = [
            Batch(batch.images.to(device).contiguous(memory_format=kept), *_moved(batch, device))
            for batch in task.batches
        ]
        torch.manual_seed(seed)
        self.method = task.method(task.settings, task.data)
        self.method.to(device).to(memory_format=memory)
        self.optimizers = self.method.optimizers()
        self.model: Callable[..., dict[str, Tensor]] = (
            torch.compile(self.method) if way.compile else self.method
        )
        self.losses: list[Tensor] = []
        self.seconds: list[common.Seconds] = []

    def step(self) -> None:
        """Take one step."""
        i = len(self.losses)
        torch.manual_seed(1000 * self.seed + i)
        losses = []
        for phase, seen in self.method.updates(self.batches[i % len(self.batches)]):
            self.optimizers[phase].zero_grad()
            for name, optimizer in self.optimizers.items():
                for parameter in optimizer.param_groups[0]["params"]:
                    parameter.requires_grad_(name == phase)
            with torch.autocast(self.device, torch.bfloat16, enabled=self.way.bf16):
                losses.append(self.model(seen, phase)["loss"])
            losses[-1].backward()
            self.optimizers[phase].step()
        self.method.after_step(i + 1)
        self.losses.append(losses[0].detach())

    def turn(self) -> None:
        """Take some steps, each timed."""
        synchronize = torch.cuda.synchronize if self.device == "cuda" else None
        for _ in range(min(TURN, self.steps - len(self.losses))):
            self.seconds.append(common.timed(self.step, synchronize))

    @property
    def took(self) -> common.Seconds:
        """Return the median step, without the first ones."""
        return common.median(self.seconds[int(WARM * self.steps) :])

    @property
    def loss(self) -> float:
        """Return the mean loss of the last steps."""
        return statistics.fmean(loss.item() for loss in self.losses[-int(LAST * self.steps) :])


def _moved(batch: Batch, device: str) -> Iterator[Any]:
    return (None if field is None else field.to(device) for field in batch[1:])


def toy_images(n: int, size: int, kind: Literal["images", "scenes"] = "images") -> Tensor:
    """Return images of the embedded data set, float32 [n, 3, size, size] in [0, 1]."""
    reader = Toy(Path(), Toy.Settings(kind=kind, size=size, train=n))
    images = np.stack([reader.sample("train", i).image for i in range(n)])
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 255


def why_no_compile(device: str) -> str:
    """Return why torch.compile cannot be measured here, or nothing."""
    if device == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return "no C++ compiler on the PATH"
    try:
        torch.compile(lambda x: x + 1)(torch.ones(2, device=device))
    except Exception as error:  # whatever the backend lacks
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return ""


def record(training: Training, reference: Training, noise: float) -> dict[str, Any]:
    seconds, difference = training.took, training.loss - reference.loss
    return {
        "step": seconds.json(),
        "images_per_second": round(len(training.batches[0].images) / seconds.wall, 1),
        "ratio": reference.took.wall / seconds.wall,
        "cpu_ratio": reference.took.cpu / seconds.cpu,
        "first_step_s": training.seconds[0].wall,
        "loss": training.loss,
        "loss_difference": difference,
        "within_noise": abs(difference) <= noise,
    }


def compare(task: Task, device: str, steps: int, compiled: bool) -> dict[str, Any]:
    """Return the times and losses of all ways to train."""
    reason = why_no_compile(device) if compiled else "--no-compile"
    if reason:
        print(f"{task.name}: torch.compile is left out: {reason}", flush=True)
    else:
        from torch._inductor import config as inductor  # as slow to import as torch itself

        inductor.force_disable_caches = True
        warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")
    ways = [Way(*flags) for flags in product((False, True), repeat=3)]
    ways = [way for way in ways if not way.compile or (way.channels_last and not reason)]
    trainings = [Training(task, way, SEEDS[0], steps, device) for way in ways]
    others = [Training(task, REFERENCE, seed, steps, device) for seed in SEEDS[1:]]
    while len(trainings[0].losses) < steps:
        for training in trainings:
            training.turn()
    for training in others:
        while len(training.losses) < steps:
            training.turn()
    losses = [training.loss for training in (trainings[0], *others)]
    noise = max(losses) - min(losses)
    reference = trainings[0]
    results = {str(t.way): record(t, reference, noise) for t in trainings}
    for name, result in results.items():
        if name == str(REFERENCE):
            continue
        common.report_ratio(f"{task.name}, {name}", result["step"]["wall"], reference.took.wall)
        print(
            f"  {result['images_per_second']:.0f} images/s (reference "
            f"{results[str(REFERENCE)]['images_per_second']:.0f}), CPU ratio "
            f"{result['cpu_ratio']:.3g}, first step {result['first_step_s']:.3g} s, loss "
            f"{result['loss_difference']:+.3g} of {reference.loss:.4g} "
            f"({'within' if result['within_noise'] else 'OUTSIDE'} the seeds' {noise:.3g})",
            flush=True,
        )
    fit = [name for name, result in results.items() if result["within_noise"]]
    winner = max(fit, key=lambda name: results[name]["ratio"])
    print(f"{task.name}: {winner} wins on this device", flush=True)
    return {
        "winner": winner,
        "seed_losses": losses,
        "noise": noise,
        "not_compiled": reason,
        "reference": str(REFERENCE),
        "ways": results,
    }


def main(argv: Sequence[str] | None = None) -> None:
    args = options(__doc__, "training_step", BATCH, STEPS).parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = toy_images(8 * args.batch, SIZE).split(args.batch)
    batches = [Batch(some, None) for some in images]
    settings = resolve(PatchVAE, "cifar100", {}, "")
    task = Task("training_step", PatchVAE, settings, DataInfo(SIZE, 100), batches)
    measure(task, device, args)


def options(doc: str | None, name: str, batch: int, steps: int) -> argparse.ArgumentParser:
    """Return the command line of a comparison of training steps."""
    parser = common.arguments(doc, name)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--steps", type=int, default=steps, help="of each training")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure torch.compile, too",
    )
    return parser


def measure(task: Task, device: str, args: argparse.Namespace) -> None:
    """Compare all ways, and write what came of it."""
    machine = common.machine(
        device, ("torch", "torchvision"), torch_threads=torch.get_num_threads()
    )
    about = {
        "size": task.data.size,
        "batch": args.batch,
        "steps": args.steps,
        "settings": task.settings.model_dump(mode="json"),
    }
    result = compare(task, device, args.steps, args.compile)
    common.write(args.out, task.name, {"machine": machine, "task": about, **result})


if __name__ == "__main__":
    main()
