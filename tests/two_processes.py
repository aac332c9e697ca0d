"""Trainings in processes that stand side by side; run by tests/test_processes.py.

Those with steps compute in float64, where rounding is too small to hide a difference or to feign
one: in float32, Adam turns a gradient that is 0 but for rounding into whole steps. A job that says
`float32` computes as ever.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from partbench import method as methods
from partbench import train as training
from partbench.errors import BadInput
from partbench.progress import Progress
from partbench.run import Run, Runtime


@contextmanager
def float64() -> Iterator[None]:
    """Let all methods compute in float64, and leave out the check of their outputs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(training, "check_outputs", lambda *_: None)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


class Job(dict[str, Any]):
    """A training: method, variant, changes, data and out, and the steps of its mishaps, if any.

    `stop` is the step after which this rank gets SIGTERM, `nan` that after which its loss is NaN.
    """

    def run(self, runtime: Runtime) -> str:
        """Train; return how it ended."""
        cls = methods.load(self["method"])
        settings = methods.resolve(cls, self["variant"], self["changes"], "test")
        run = Run(self["method"], self["variant"], "toy", 0)
        training.Progress = self.progress()  # type: ignore[misc]
        forward = cls.forward
        if "nan" in self:
            cls.forward = self.broken(forward)  # type: ignore[method-assign]
        try:
            with float64() if settings.epochs and "float32" not in self else nullcontext():
                training.train(run, settings, runtime, Path(self["data"]), Path(self["out"]))
        except (BadInput, training.Stopped) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            cls.forward = forward  # type: ignore[method-assign]
        return "done"

    def progress(self) -> type[Progress]:
        stop = self.get("stop")

        class Interrupting(Progress):
            def advance(self, amount: int = 1, note: str = "") -> None:
                super().advance(amount, note)
                if self.done == stop:
                    signal.raise_signal(signal.SIGTERM)

        return Interrupting

    def broken(self, forward: Any) -> Any:
        calls = 0

        def broken(method: Any, *arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            terms = forward(method, *arguments)
            return terms | {"loss": terms["loss"] * torch.nan} if calls > self["nan"] else terms

        return broken


def main(jobs: Path, ends: Path) -> None:
    """Run the jobs of a file one after the other, and write how each ended."""
    torch.set_num_threads(1)
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    runtime = Runtime(device="cpu", devices=world, threads=1, precision="32-true")
    mishaps = ("stop", "nan")
    ended = []
    for values in json.loads(jobs.read_text()):
        # Only the last process has the mishaps; the others must hear of them.
        kept = {k: v for k, v in values.items() if k not in mishaps or rank == world - 1}
        ended.append(Job(kept).run(runtime))
    ends.write_text(json.dumps(ended))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
