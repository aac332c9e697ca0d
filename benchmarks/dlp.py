"""Deep Latent Particles against the plain formulation of its terms (benchmarks/plain_dlp.py).

The training step at the CelebA settings: images of 160 px, window of 128, K = 30, VGG16. Its
weights are random, as no time depends on them, nor on what the images show. The plain step warps
its pairs on the CPU one at a time, as the published script does without workers, and computes in
float32, contiguous. Ours is what the training loop does: pairs warped on the device, channels
last, bfloat16 where the machine has it. Ours in float32 stands beside it. First both are made to
compute the same loss and the same gradient from the same weights, noise and warps.

Peak memory is what one step adds to a process of its own: weights' gradients and Adam's state, too.

Then parts alone, forward and backward: the Chamfer-KL; glimpses and their way back; the warped
pairs, forward only, against a loader that keeps the spline's terms and one that does not.

All that is compared runs in turn, so that other load on the machine hits all alike; the median
turn counts.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import common, plain_dlp
from partbench.data.batch import Batch
from partbench.method import DataInfo, resolve
from partbench.methods.dlp import DLP, WEAK
from partbench.model import precision_of
from partbench.nn import particles, perceptual
from partbench.nn.particle_types import Noise
from partbench.nn.tps import STRONG, warp
from partbench.run import Runtime

SIZE, K, PROPOSALS = 160, 30, 50
STEP_TARGET, MEMORY_TARGET, PAIRS_TARGET = 2, 2, 10
WAYS = ("ours", "ours_float32", "plain")


def celeba(size: int, batch: int, device: str) -> tuple[DLP, Tensor]:
    """Return a new model, with a random VGG16, and new images float32 [batch, 3, size, size]."""
    torch.manual_seed(0)
    method = DLP(resolve(DLP, f"k{K}", {}, ""), DataInfo(size, 0)).to(device)
    network = perceptual.vgg("vgg16")[: perceptual.DLP_LAYERS["vgg16"][-1] + 1].to(device)
    method.perceptual.network = network.requires_grad_(False).eval()
    return method, torch.rand(batch, size, size, 3).permute(0, 3, 1, 2)


class Training:
    """A model that takes its steps in one of the WAYS."""

    def __init__(self, way: str, size: int, batch: int, device: str) -> None:
        self.way, self.device = way, device
        self.method, images = celeba(size, batch, device)
        if way == "plain":
            for layer in self.method.modules():
                if isinstance(layer, nn.LeakyReLU):
                    layer.inplace = False
            self.warper = plain_dlp.LoaderWarper(size)
            self.images = images.contiguous()
        else:
            self.method.to(memory_format=torch.channels_last)
            assert self.method.perceptual.network is not None
            self.method.perceptual.network.to(memory_format=torch.channels_last)
            self.images = images.to(device)
        self.bf16 = way == "ours" and precision_of(Runtime()) == "bf16-mixed"
        self.adam = self.method.optimizers()["all"]

    def _loss(self) -> Tensor:
        if self.way != "plain":
            return self.method(Batch(self.images, None), "all")["loss"]
        pair = (self.method.frame().cut(t.to(self.device)) for t in self.warper.pairs(self.images))
        x, x_prior = pair
        return self.method.loss(x, x_prior, self.method.draw(x))["loss"]

    def step(self) -> None:
        """Take one step."""
        self.adam.zero_grad()
        with plain_dlp.formulation() if self.way == "plain" else nullcontext():
            with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
                loss = self._loss()
            loss.backward()
        self.adam.step()


def check_same(size: int, device: str) -> float:
    """Compute warps, loss and gradient both ways; return the largest difference of a loss term.

    Loss and gradient in float64 and of the same warped images: in float32 a rounding may decide
    which proposal is kept or which message is the largest.

    Raises:
        AssertionError: a warped image, a term of the loss or a parameter's gradient differs.
    """
    method, images = celeba(size, 2, device)
    assert method.warper is not None
    weights = [method.warper.draw(len(images), spread) for spread in (WEAK, STRONG)]
    x = warp(images.to(device), method.warper.grid(weights[0]))
    x_prior = warp(x, method.warper.grid(weights[1]))
    loader = plain_dlp.LoaderWarper(size, keep=False)
    found = [loader.pair(*one) for one in zip(images, *(w.cpu() for w in weights), strict=True)]
    for ours, plain in zip((x, x_prior), zip(*found, strict=True), strict=True):
        torch.testing.assert_close(ours.cpu(), torch.stack(plain), rtol=0, atol=1e-3)
    x, x_prior = method.frame().cut(x).double(), method.frame().cut(x_prior).double()
    noise = method.draw(x)
    noise = Noise(noise.position.double(), noise.features.double())
    assert method.perceptual.network is not None
    parameters = list(method.double().parameters())
    method.perceptual.network.double()

    def terms() -> Tensor:
        values = method.loss(x, x_prior, noise)
        gradient = torch.autograd.grad(values["loss"], parameters)
        return torch.stack([*(v.detach() for v in values.values()), *(g.norm() for g in gradient)])

    one = terms()
    with plain_dlp.formulation():
        other = terms()
    # Some gradients are zero but for rounding: of biases before BatchNorm.
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12 * other.max().item())
    return float(((one - other) / other).abs()[:4].max())


def peak_bytes(way: str, size: int, batch: int, device: str, threads: int) -> int:
    """Return what the first step of a training adds to the memory of this process, at most."""
    torch.set_num_threads(threads)
    training = Training(way, size, batch, device)
    return common.added_memory(training.step, device)


def in_turn(
    runs: Mapping[str, Callable[[], Any]], turns: int, device: str
) -> dict[str, common.Seconds]:
    """Time all in turn, after a turn that does not count; with no turns, the first counts."""
    synchronize = torch.cuda.synchronize if device == "cuda" else None
    times: dict[str, list[common.Seconds]] = {name: [] for name in runs}
    for _ in range(turns + 1):
        for name, run in runs.items():
            times[name].append(common.timed(run, synchronize))
    return {name: common.median(seconds[1:] or seconds) for name, seconds in times.items()}


def ratio(
    name: str, ours: common.Seconds, reference: common.Seconds, target: float | None = None
) -> dict[str, Any]:
    """Report wall seconds, with the ratio of CPU seconds beside them."""
    result = common.report_ratio(f"dlp, {name}", ours.wall, reference.wall, target)
    result["cpu_ratio"] = reference.cpu / ours.cpu
    print(
        f"  CPU seconds: ours {ours.cpu:.3g}, reference {reference.cpu:.3g}, "
        f"ratio {result['cpu_ratio']:.3g}"
    )
    return result


def compare_memory(size: int, batch: int, device: str) -> dict[str, Any]:
    """Compare the peak memory of steps."""
    peaks = {}
    for way in WAYS:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            arguments = (way, size, batch, device, torch.get_num_threads())
            peaks[way] = pool.submit(peak_bytes, *arguments).result()
    less = peaks["plain"] / peaks["ours"]
    met = less >= MEMORY_TARGET
    mib = ", ".join(f"{way} {peak / 2**20:.0f} MiB" for way, peak in peaks.items())
    print(
        f"dlp, peak memory of a step: {mib}, ratio {less:.3g} "
        f"(target >= {MEMORY_TARGET}: {'met' if met else 'not met'})",
        flush=True,
    )
    return {"bytes": peaks, "ratio": less, "target": MEMORY_TARGET, "met": met}


def compare_step(size: int, batch: int, turns: int, device: str) -> dict[str, Any]:
    """Compare training steps."""
    trainings = {way: Training(way, size, batch, device) for way in WAYS}
    took = in_turn({way: training.step for way, training in trainings.items()}, turns, device)
    return {
        "bf16": trainings["ours"].bf16,
        "default": ratio("step", took["ours"], took["plain"], STEP_TARGET),
        "float32": ratio("step, float32", took["ours_float32"], took["plain"]),
    }


def gradients(
    function: Callable[..., Any], tensors: Sequence[Tensor], *more: Any, often: int = 1
) -> Callable[[], None]:
    """Return a call of `function`, forward and backward to the tensors that take gradients."""
    leaves = [t for t in tensors if t.requires_grad]

    def run() -> None:
        for _ in range(often):
            found = function(*tensors, *more)
            outputs = found if isinstance(found, tuple) else (found,)
            torch.autograd.grad([t.sum() for t in outputs], leaves)

    return run


def compare_chamfer(turns: int, device: str) -> dict[str, Any]:
    """Compare the Chamfer-KL of 31 particles and 50 proposals, batch 64."""
    mu, prior = (torch.rand(64, n, 2, device=device) * 2 - 1 for n in (K + 1, PROPOSALS))
    tensors = [t.requires_grad_() for t in (mu, torch.randn_like(mu) - 4, prior)]
    functions = {
        "ours": particles.chamfer_kl,
        "loop": plain_dlp.chamfer_kl,
        "dense": plain_dlp.dense_chamfer_kl,
    }
    runs = {
        name: gradients(lambda *t, f=f: f(*t, -4.6), tensors, often=20)
        for name, f in functions.items()
    }
    took = in_turn(runs, turns, device)
    return {
        name: ratio(f"20 times the Chamfer-KL, against the {name} form", took["ours"], took[name])
        for name in ("loop", "dense")
    }


def compare_glimpses(turns: int, device: str) -> dict[str, Any]:
    """Compare glimpses and their way back at the settings of Traffic, and glimpses of heat maps."""
    batch, k, side, glimpse = 16, 15, 128, 32
    points = torch.rand(batch, k, 2, device=device) * 1.8 - 0.9
    images = torch.rand(batch, 3, side, side, device=device, requires_grad=True)
    patches = torch.rand(batch, k, 4, glimpse, glimpse, device=device, requires_grad=True)
    on = torch.rand(batch, k, device=device, requires_grad=True)
    maps = torch.rand(batch, K, 16, 16, device=device, requires_grad=True)
    many = torch.rand(batch, K, 2, device=device) * 1.8 - 0.9
    places = points.clone().requires_grad_()
    results = {}
    for name, function, tensors, more in (
        ("glimpses", "glimpses", (images, points), (glimpse,)),
        ("composite", "composite", (patches, places, on), (side,)),
        ("glimpses of heat maps", "glimpses", (maps, many), (2,)),
    ):
        runs = {
            "ours": gradients(getattr(particles, function), tensors, *more),
            "plain": gradients(getattr(plain_dlp, function), tensors, *more),
        }
        took = in_turn(runs, turns, device)
        results[name] = ratio(name, took["ours"], took["plain"])
    return results


def compare_pairs(size: int, n: int, turns: int, device: str) -> dict[str, Any]:
    """Compare the warped pairs of n images and the windows cut from them."""
    method, images = celeba(size, n, device)
    on_device, one_by_one = images.to(device), images.contiguous()
    loaders = {
        "kept": plain_dlp.LoaderWarper(size),
        "recomputed": plain_dlp.LoaderWarper(size, keep=False),
    }
    runs: dict[str, Callable[[], Any]] = {"ours": partial(method.pair, on_device)}
    runs |= {name: partial(loader.pairs, one_by_one) for name, loader in loaders.items()}
    took = in_turn(runs, turns, device)
    return {
        name: ratio(f"pairs, terms {name}", took["ours"], took[name], PAIRS_TARGET)
        for name in loaders
    }


def main(argv: Sequence[str] | None = None) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = common.arguments(__doc__, "dlp")
    parser.add_argument("--size", type=int, default=SIZE, help="pixels, 32 of them a margin")
    parser.add_argument("--batch", type=int, default=64 if device == "cuda" else 8)
    parser.add_argument("--pairs", type=int, default=64, help="images warped at once")
    parser.add_argument("--turns", type=int, default=20 if device == "cuda" else 5)
    args = parser.parse_args(argv)
    memory = compare_memory(args.size, args.batch, device)
    difference = check_same(args.size, device)
    print(
        f"dlp: ours and the plain formulation differ by {difference:.1g} of a loss term", flush=True
    )
    torch.manual_seed(0)
    result = {
        "largest_relative_difference": difference,
        "peak_memory": memory,
        "training_step": compare_step(args.size, args.batch, args.turns, device),
        "chamfer_kl": compare_chamfer(args.turns, device),
        "glimpses": compare_glimpses(args.turns, device),
        "pairs": compare_pairs(args.size, args.pairs, args.turns, device),
    }
    machine = common.machine(
        device, ("torch", "torchvision"), torch_threads=torch.get_num_threads()
    )
    task = {
        "size": args.size,
        "k": K,
        "batch": args.batch,
        "pairs": args.pairs,
        "turns": args.turns,
    }
    common.write(args.out, "dlp", {"machine": machine, "task": task, **result})


if __name__ == "__main__":
    main()
