"""Fisher vectors of FV-VAE: one product of matrices against one outer product a descriptor.

As for 10,000 frames of 50 descriptors of 512 numbers, which the encoder turns into codes of 256.
All sides add up the gradients of all descriptors of a video of 25 frames. `fused` is ours. `outer`
takes one descriptor after the other, makes its gradient, 512 x 257, and adds it; `batched` makes
those of a frame at once. `whole` is the time with the encoder and the decoder, `sum` that of the
gradients and their addition alone. `products` is the time of our side's four products of matrices
alone, which it cannot fall below. The vectors are compared. How far ours raises the peak of the
process's memory is measured in processes of their own, for some videos and for four times as many.

    python -m benchmarks fisher_vectors
"""

import multiprocessing
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import common
from partbench.method import DataInfo, resolve
from partbench.methods.fv_vae import FVVAE

DESCRIPTORS, CHANNELS, LATENT, FRAMES = 50, 512, 256, 25
AIM = 10_000
"""Frames that the time of a frame is extrapolated to."""
TARGET = 10.0


def make(seed: int) -> FVVAE:
    """Return the method with random weights."""
    torch.manual_seed(seed)
    method = FVVAE(resolve(FVVAE, "paper", {}, "benchmark"), DataInfo(224, 101)).eval()
    assert method.norms.shape == (CHANNELS * (LATENT + 1),)
    return method


def descriptors(videos: int, seed: int) -> list[Tensor]:
    """Return the descriptors of videos, [1, FRAMES, 50, 512] each."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, FRAMES, DESCRIPTORS, CHANNELS)
    return [torch.rand(shape, generator=generator) * 2 for _ in range(videos)]


def fused(delta: Tensor, inputs: Tensor) -> Tensor:
    """Return the vector of a video from the factors of its descriptors, [1, N, ...]."""
    return (inputs.transpose(1, 2) @ delta)[0]


def outer(delta: Tensor, inputs: Tensor) -> Tensor:
    total = torch.zeros(LATENT + 1, CHANNELS, device=delta.device)
    for one, other in zip(inputs[0], delta[0], strict=True):
        total += torch.outer(one, other)
    return total


def batched(delta: Tensor, inputs: Tensor) -> Tensor:
    total = torch.zeros(LATENT + 1, CHANNELS, device=delta.device)
    for one, other in zip(inputs[0].split(DESCRIPTORS), delta[0].split(DESCRIPTORS), strict=True):
        total += (one[:, :, None] * other[:, None]).sum(0)
    return total


SIDES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "fused": fused,
    "outer": outer,
    "batched": batched,
}


def whole(method: FVVAE, side: str, x: Tensor) -> Tensor:
    """Return the vector of a video's descriptors [1, FRAMES, 50, 512]."""
    if side == "fused":
        return method.encode(x)[0]
    at_once = 1 if side == "outer" else DESCRIPTORS
    total = torch.zeros(LATENT + 1, CHANNELS, device=x.device)
    for some in x.flatten(1, 2).split(at_once, 1):
        total += SIDES[side](*method.factors(some))
    return total.flatten() / x.shape[1]


def products(method: FVVAE, x: Tensor) -> Tensor:
    """Multiply the matrices that our side multiplies of a video, and do nothing else."""
    first, second = (layer.weight for layer in method.encoder if isinstance(layer, nn.Linear))
    x = x.flatten(0, 2)
    hidden = x @ first.T
    code = hidden @ second.T
    return code.T @ (code @ method.decoder.weight.T)


def raised(videos: int, seed: int) -> int:
    """Return how far our side raises this process's peak memory beyond one video, bytes."""
    torch.set_num_threads(1)
    method, x = make(seed), descriptors(1, seed)[0]
    with torch.inference_mode():
        whole(method, "fused", x)

        def run() -> None:
            for _ in range(videos):
                whole(method, "fused", x)

        return common.added_memory(run, "cpu")


def main(argv: Sequence[str] | None = None) -> None:
    parser = common.arguments(__doc__, "fisher_vectors")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--videos", type=int, default=8, help="of 25 frames, of our side")
    parser.add_argument("--slow", type=int, default=1, help="videos of the other sides")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("highest")
    method = make(args.seed).to(args.device)
    videos = [x.to(args.device) for x in descriptors(args.videos, args.seed)]
    wait = torch.cuda.synchronize if args.device == "cuda" else None
    result: dict[str, Any] = {name: {} for name in SIDES}

    def seconds(calls: Sequence[Callable[[], Tensor]]) -> common.Seconds:
        """Return what a frame takes."""
        calls[0]()
        spent = common.median(
            common.timed(lambda: [call() for call in calls], wait) for _ in range(args.repeats)
        )
        frames = FRAMES * len(calls)
        return common.Seconds(spent.wall / frames, spent.cpu / frames)

    with torch.inference_mode():
        found = {name: whole(method, name, videos[0]) for name in SIDES}
        for name, vector in found.items():
            error = ((vector - found["outer"]).norm() / found["outer"].norm()).item()
            assert error < 1e-4, f"{name} makes another vector"
            result[name]["relative_error"] = error
        factors = [method.factors(x.flatten(1, 2)) for x in videos]
        for part in ("sum", "whole"):
            spent = {}
            for name, side in SIDES.items():
                n = args.videos if name == "fused" else args.slow
                calls: list[Callable[[], Tensor]] = (
                    [partial(side, *pair) for pair in factors[:n]]
                    if part == "sum"
                    else [partial(whole, method, name, x) for x in videos[:n]]
                )
                spent[name] = seconds(calls)
                result[name][part] = {"seconds_per_frame": spent[name].json()}
            for name in ("outer", "batched"):
                title = f"fisher_vectors of {AIM} frames, {part}, against {name}"
                target = TARGET if name == "outer" else None
                ours, theirs = AIM * spent["fused"].wall, AIM * spent[name].wall
                ratios = common.report_ratio(title, ours, theirs, target)
                cpu = spent[name].cpu / spent["fused"].cpu
                print(f"  in processor time: {cpu:.3g}")
                result[name][part] |= ratios | {"cpu_ratio": cpu}
    with torch.inference_mode():
        floor = seconds([partial(products, method, x) for x in videos])
    share = floor.cpu / result["fused"]["whole"]["seconds_per_frame"]["cpu"]
    print(f"fisher_vectors: products of matrices are {100 * share:.0f} % of our processor time")
    result["fused"]["products"] = {"seconds_per_frame": floor.json()}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for n in (args.videos, 4 * args.videos):
            more = pool.apply(raised, (n, args.seed)) / 2**20
            result["fused"][f"memory_of_{n}_videos_mib"] = more
            print(f"fisher_vectors: {n} videos add {more:.1f} MiB")
    task = {
        "descriptors": DESCRIPTORS, "channels": CHANNELS, "latent": LATENT, "frames": FRAMES,
        "videos": args.videos, "slow": args.slow, "seed": args.seed,
    }  # fmt: skip
    machine = common.machine(args.device, ("torch",), threads=args.threads)
    common.write(args.out, "fisher_vectors", {"machine": machine, "task": task, **result})


if __name__ == "__main__":
    main()
