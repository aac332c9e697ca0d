"""DFF's factorisation against scikit-learn's NMF, to an error at least as small.

As on CUB: 5867 images of 14 x 14 cells, 1.15 million x 512 float32, K = 4. The matrix is synthetic:
non-negative, of rank 8, with noise. All start from the same random factors, `hals` by way of a
sixteenth of the rows, which is timed too. Each of scikit-learn's solvers ends by its own rule
(`tol` 1e-4, at most 200 iterations). Of `hals` the number of updates after which its error is no
larger is found first, in tens, then that run is timed; the error is measured again in float64 on
both sides. `multiplicative`, the published solver, makes the updates of scikit-learn's `mu`, and
as many.

    python -m benchmarks dff
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from benchmarks import common
from partbench.methods.dff import ROWS
from partbench.nn.nmf import Factors, Solver, ahead, factorise, initial

N_ROWS, CHANNELS, FACTORS, RANK = 1_150_000, 512, 4, 8
TARGET = 5.0


def make(rows: int, seed: int) -> torch.Tensor:
    """Return V [rows, CHANNELS]: sparse weights of RANK spectra, and noise."""
    generator = torch.Generator().manual_seed(seed)
    spectra = torch.rand(RANK, CHANNELS, generator=generator) ** 3
    v = torch.empty(rows, CHANNELS)
    for block in v.split(ROWS):
        weights = torch.rand(len(block), RANK, generator=generator) ** 4
        noise = torch.rand(block.shape, generator=generator).square_()
        torch.addmm(noise, weights, spectra, beta=0.3, out=block)
    return v


def exact(v: torch.Tensor, w: torch.Tensor, h: torch.Tensor) -> float:
    """Return the Frobenius norm of V - W H in float64: scikit-learn's own is a float32 sum."""
    pairs = zip(v.split(ROWS), w.split(ROWS), strict=True)
    squared = [(a.double() - b.double() @ h.double()).square().sum().item() for a, b in pairs]
    return math.sqrt(math.fsum(squared))


def least(v: torch.Tensor, solver: Solver, seed: int, error: float, most: int) -> int:
    """Return the fewest updates, in steps of ten, to an error no larger; `most` at most."""
    updates = 10
    while updates < most and exact(v, *ours(v, solver, seed, updates)[:2]) > error:
        updates += 10
    return updates


def ours(v: torch.Tensor, solver: Solver, seed: int, updates: int) -> Factors:
    torch.manual_seed(seed)
    blocks = v.split(ROWS)
    w, h = initial(blocks, FACTORS)
    if solver == "hals":
        h = ahead(blocks, w, h)
    return factorise(blocks, w, h, updates=updates, tolerance=0, solver=solver)


def main(argv: Sequence[str] | None = None) -> None:
    parser = common.arguments(__doc__, "dff")
    parser.add_argument("--rows", type=int, default=N_ROWS)
    parser.add_argument("--threads", type=int, default=1, help="of both sides")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    v = make(args.rows, args.seed)
    array = v.numpy()
    result: dict[str, Any] = {}

    def time_ours(solver: Solver, updates: int) -> tuple[common.Seconds, float]:
        box: list[Factors] = []
        spent = common.timed(lambda: box.append(ours(v, solver, args.seed, updates)))
        return spent, exact(v, box[0].w, box[0].h)

    def time_theirs(model: Any) -> tuple[common.Seconds, float, int]:
        torch.manual_seed(args.seed)
        w, h = (x.numpy() for x in initial(v.split(ROWS), FACTORS))
        box: list[Any] = []
        with threadpool_limits(args.threads), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # its 200 iterations are the rule
            spent = common.timed(lambda: box.append(model.fit_transform(array, W=w, H=h)))
        error = exact(v, torch.from_numpy(box[0]), torch.from_numpy(model.components_))
        return spent, error, int(model.n_iter_)

    for name in ("cd", "mu"):
        runs = {"scikit-learn": time_theirs(NMF(FACTORS, solver=name, init="custom"))}
        spent, error, iterations = runs["scikit-learn"]
        updates = least(v, "hals", args.seed, error, iterations)
        runs["hals"] = (*time_ours("hals", updates), updates)
        if name == "mu":
            runs["multiplicative"] = (*time_ours("multiplicative", iterations), iterations)
        result[name] = {
            key: {"seconds": s.json(), "error": e, "updates": u} for key, (s, e, u) in runs.items()
        }
        for key, (seconds, reached, made) in runs.items():
            about = f"{made} updates, error {reached:.7g}, {seconds.cpu:.1f} s CPU"
            print(f"dff, {name}, {key}: {about}", flush=True)
        assert runs["hals"][1] <= error, "the errors are not equal"
        for key, target in (("hals", TARGET), ("multiplicative", None)):
            if key in runs:
                title = f"dff, {key} against scikit-learn's {name}"
                ratio = common.report_ratio(title, runs[key][0].wall, spent.wall, target)
                cpu = spent.cpu / runs[key][0].cpu
                result[name][key] |= {"ratio": ratio, "cpu_ratio": cpu}
    task = {
        "rows": args.rows, "channels": CHANNELS, "factors": FACTORS, "rank": RANK,
        "seed": args.seed,
    }  # fmt: skip
    machine = common.solver_machine(args.threads)
    common.write(args.out, "dff", {"machine": machine, "task": task, **result})


if __name__ == "__main__":
    main()
