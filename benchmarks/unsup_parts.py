"""Unsupervised parts against the straightforward formulation (benchmarks/plain_parts.py).

The settings for birds: 6 images of 256 px, K = 4, two layers of VGG19 with 768 channels. First the
terms alone, forward and backward to the logits; with --step the whole training step too, with
VGG19 and the ResNet-50 of DeepLab, whose weights are random, as no time depends on them. With
--reference a training step of the authors' public code stands beside it, from a checkout of
theirs (benchmarks/authors_parts.py says how). Then ours and the straightforward formulation are
made to compute the same loss and gradients in float64.

Each way runs in a process of its own. Peak memory is what its first step adds; the median of the
next steps' times counts.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import authors_parts, common, plain_parts
from partbench.data.batch import Batch
from partbench.method import DataInfo, resolve
from partbench.methods.unsup_parts import LAYERS, UnsupParts
from partbench.nn import consistency, perceptual
from partbench.nn.colour import rgb_to_lab

SIZE, K, BATCH = 256, 4, 6
LAYER_SIZES = ((256, 4), (512, 16))
"""Channels of the two layers, and pixels per cell."""
TIME_TARGET, MEMORY_TARGET = 1.5, 2
WAYS = ("ours", "plain")
"""What check_same holds to be the same; --reference adds the authors' code."""
WHATS = ("terms", "step")


class Task(NamedTuple):
    """A batch of images, and where it is computed."""

    size: int
    batch: int
    device: str


class Terms:
    """The terms of one batch, from given activations and logits."""

    def __init__(self, size: int, batch: int, device: str, dtype: torch.dtype) -> None:
        torch.manual_seed(0)

        def rand(*shape: int) -> Tensor:
            return torch.rand(shape, dtype=dtype).to(device)

        self.taps = [rand(batch, width, size // cell, size // cell) for width, cell in LAYER_SIZES]
        self.lab = rgb_to_lab(rand(batch, 3, size, size))
        self.mask = (rand(batch, 1, size, size) > 0.5).to(dtype)
        self.logits = [rand(batch, K, size, size).requires_grad_() for _ in range(2)]
        self.positives = consistency.draw_positives(batch, K, True, self.mask.device)

    def loss(self, way: str) -> Tensor:
        """Return the weighted sum of the terms."""
        form: Any = plain_parts if way == "plain" else consistency
        taps = (
            plain_parts.upsampled(self.taps, self.mask.shape[-1]) if way == "plain" else self.taps
        )
        parts = self.logits[0].softmax(1)
        found = form.descriptors(parts, self.mask, taps)
        present = self.mask.flatten(1).any(1)
        return (
            5 * form.consistency(parts, self.mask, taps).sum()
            + 30 * form.consistency(parts, self.mask, [self.lab]).mean()
            + 2300 * consistency.contrastive(found, self.positives, present, 0.19)
            + 5700 * consistency.equivariance(self.logits[0], self.logits[1], self.mask).mean()
        )

    def step(self, way: str) -> None:
        """Compute loss and gradients."""
        for logits in self.logits:
            logits.grad = None
        self.loss(way).backward()


class Training:
    """The whole method, which takes its steps."""

    def __init__(self, size: int, batch: int, device: str) -> None:
        torch.manual_seed(0)
        settings = resolve(UnsupParts, "cub", {"batch_size": batch}, "")
        self.method = UnsupParts(settings, DataInfo(size, 0)).to(device)
        self.method.to(memory_format=torch.channels_last)
        network = perceptual.vgg("vgg19")[: LAYERS["vgg19"][-1] + 1].to(device)
        network.to(memory_format=torch.channels_last)
        self.method.perceptual.network = network.requires_grad_(False).eval()
        images = torch.rand(batch, size, size, 3, device=device).permute(0, 3, 1, 2)
        masks = (torch.rand(batch, size, size, device=device) > 0.5).float()
        self.batch = Batch(images, None, None, masks)
        self.optimizer = self.method.optimizers()["all"]

    def step(self, way: str) -> None:
        """Take one step."""
        self.optimizer.zero_grad()
        with plain_parts.formulation() if way == "plain" else nullcontext():
            self.method(self.batch, "all")["loss"].backward()
        self.optimizer.step()


def check_same() -> float:
    """Compute loss and gradients both ways in float64; return the loss's relative difference.

    Raises:
        AssertionError: they differ.
    """
    terms = Terms(64, 3, "cpu", torch.float64)
    found = {}
    for way in WAYS:
        loss = terms.loss(way)
        found[way] = (loss.detach(), *torch.autograd.grad(loss, terms.logits))
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    ours, plain = (values[0] for values in found.values())
    return float(((ours - plain) / plain).abs())


def measure(
    what: str, way: str, task: Task, turns: int, threads: int, reference: Path | None
) -> tuple[int, common.Seconds]:
    """Return what the first step adds to the memory of this process, and the time of a step."""
    torch.set_num_threads(threads)
    step = _start(what, way, task, reference)
    device = task.device
    synchronize: Callable[[], Any] | None = torch.cuda.synchronize if device == "cuda" else None
    times: list[common.Seconds] = []
    peak = common.added_memory(lambda: times.append(common.timed(step, synchronize)), device)
    times += [common.timed(step, synchronize) for _ in range(turns)]
    return peak, common.median(times[1:])


def _start(what: str, way: str, task: Task, reference: Path | None) -> Callable[[], None]:
    """Return one way's step."""
    if way == "authors":
        assert reference is not None
        return authors_parts.AuthorsTraining(reference, *task).step
    made = Terms(*task, torch.float32) if what == "terms" else Training(*task)
    return partial(made.step, way)


def compare(what: str, task: Task, turns: int, reference: Path | None) -> dict[str, Any]:
    """Compare time and peak memory of ours with the others'.

    Args:
        what: one of WHATS.
        task: the batch and where it is computed.
        turns: steps after the first, at least 1.
        reference: checkout of the authors' code; with none ours is compared with plain alone.
    """
    peaks, times = {}, {}
    for way in (*WAYS, "authors") if reference else WAYS:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            arguments = (what, way, task, turns, torch.get_num_threads(), reference)
            peaks[way], times[way] = pool.submit(measure, *arguments).result()
    result = ratios(f"unsup_parts, {what}", "plain", peaks, times)
    if reference:
        theirs = ratios(f"unsup_parts, {what}, authors' code", "authors", peaks, times)
        result["authors"] = theirs | authors_parts.described(reference, task.device)
    return result


def ratios(
    name: str, way: str, peaks: Mapping[str, int], times: Mapping[str, common.Seconds]
) -> dict[str, Any]:
    """Report ours against another way."""
    wall = common.report_ratio(name, times["ours"].wall, times[way].wall, TIME_TARGET)
    wall["cpu_ratio"] = times[way].cpu / times["ours"].cpu
    found = {one: peaks[one] for one in ("ours", way)}
    less = found[way] / found["ours"]
    mib = ", ".join(f"{one} {peak / 2**20:.0f} MiB" for one, peak in found.items())
    print(
        f"{name}, CPU seconds: ratio {wall['cpu_ratio']:.3g}; peak memory: {mib}, "
        f"ratio {less:.3g} (target >= {MEMORY_TARGET}: "
        f"{'met' if less >= MEMORY_TARGET else 'not met'})",
        flush=True,
    )
    memory = {"bytes": found, "ratio": less, "target": MEMORY_TARGET, "met": less >= MEMORY_TARGET}
    return {"time": wall, "peak_memory": memory}


def main(argv: Sequence[str] | None = None) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = common.arguments(__doc__, "unsup_parts")
    parser.add_argument("--size", type=int, default=SIZE, help="pixels")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument(
        "--turns",
        type=int,
        default=20 if device == "cuda" else 2,
        help="steps after the first, whose median counts",
    )
    parser.add_argument("--step", action="store_true", help="the whole training step, too")
    parser.add_argument(
        "--reference",
        type=authors_parts.checkout,
        metavar="PATH",
        help="a checkout of the authors' code, whose training step is measured, too",
    )
    args = parser.parse_args(argv)
    if args.reference and not args.step:
        parser.error("--reference is compared by the whole training step: give --step, too")
    whats = WHATS if args.step else WHATS[:1]
    task = Task(args.size, args.batch, device)
    result = {
        what: compare(what, task, args.turns, args.reference if what == "step" else None)
        for what in whats
    }
    difference = check_same()
    print(f"unsup_parts: the losses of both ways differ by {difference:.1g} of their size")
    machine = common.machine(device, ("torch",), torch_threads=torch.get_num_threads())
    described = {"size": args.size, "k": K, "batch": args.batch, "turns": args.turns}
    common.write(
        args.out,
        "unsup_parts",
        {
            "machine": machine,
            "task": described,
            "largest_relative_difference": difference,
            **result,
        },
    )


if __name__ == "__main__":
    main()
