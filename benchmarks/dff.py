"""DFF's factorisation against scikit-learn's NMF, to an error at least as small.

As on CUB: 5867 images of 14 x 14 cells, 1.15 million x 512 float32, K = 4. The matrix is synthetic:
non-negative, of rank 8, with noise. All start from the same random factors. Each of scikit-learn's
solvers ends by its own rule (`tol` 1e-4, at most 200 iterations); ours are timed until their error
is no larger, which is asserted of `hals`, or have made as many updates. `multiplicative` is the
published solver, with the updates of scikit-learn's `mu`.

    python -m benchmarks dff
"""

import warnings
from collections.abc import Sequence
from typing import Any, get_args

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


def until(v: torch.Tensor, solver: Solver, seed: int, error: float, most: int) -> Factors:
    """Factorise from a random start until the error is no larger than `error`.

    Every ten updates begin anew from the factors found, which reads V twice more.
    """
    torch.manual_seed(seed)
    blocks = v.split(ROWS)
    w, h = initial(blocks, FACTORS)
    if solver == "hals":
        h = ahead(blocks, w, h)
    done = 0
    while True:
        found = factorise(blocks, w, h, updates=10, tolerance=0, solver=solver)
        w, h, done = found.w, found.h, done + found.updates
        if found.error <= error or done >= most:
            return found._replace(updates=done)


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
    for name in ("cd", "mu"):
        torch.manual_seed(args.seed)
        start = [x.numpy() for x in initial(v.split(ROWS), FACTORS)]
        model = NMF(FACTORS, solver=name, init="custom")
        with threadpool_limits(args.threads), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # its 200 iterations are the rule
            reference = common.timed(
                lambda m=model, x=start: m.fit_transform(array, W=x[0], H=x[1])
            )
        error, most = float(model.reconstruction_err_), int(model.n_iter_)
        runs = {"scikit-learn": {"seconds": reference.json(), "error": error, "updates": most}}
        print(f"dff, scikit-learn's {name}: {most} iterations, error {error:.7g}", flush=True)
        for solver in get_args(Solver):
            box: list[Factors] = []
            spent = common.timed(
                lambda s=solver, b=box, e=error, m=most: b.append(until(v, s, args.seed, e, m))
            )
            (found,) = box
            title = f"dff, {solver} against scikit-learn's {name}"
            print(f"{title}: {found.updates} updates, error {found.error:.7g}", flush=True)
            reached = found.error <= error
            target = TARGET if solver == "hals" else None
            assert reached or not target, "the errors are not equal"
            runs[solver] = {
                "seconds": spent.json(),
                "error": found.error,
                "updates": found.updates,
                "as_good": reached,
                "ratio": common.report_ratio(title, spent.wall, reference.wall, target),
            }
        result[name] = runs
    task = {
        "rows": args.rows, "channels": CHANNELS, "factors": FACTORS, "rank": RANK,
        "seed": args.seed,
    }  # fmt: skip
    machine = common.solver_machine(args.threads)
    common.write(args.out, "dff", {"machine": machine, "task": task, **result})


if __name__ == "__main__":
    main()
