"""What the benchmarks share: clocks, the machine's description, one way to report."""

import argparse
import importlib.metadata
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from threadpoolctl import threadpool_info

from partbench.provenance import cpu_name, device_name

RESULTS = Path(__file__).parent / "results"


class Seconds(NamedTuple):
    """How long something took."""

    wall: float
    cpu: float
    """User and system time of this process, its children and its finished grandchildren."""

    def json(self) -> dict[str, float]:
        """Return it for the json."""
        return {key: round(value, 6) for key, value in self._asdict().items()}


def _cpu_seconds() -> float:
    spent = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        spent += usage.ru_utime + usage.ru_stime
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        spent += times.user + times.system
    return spent


def timed(run: Callable[[], Any], synchronize: Callable[[], Any] | None = None) -> Seconds:
    """Call `run`, wait for the device, return what it took."""
    cpu, wall = _cpu_seconds(), time.perf_counter()
    run()
    if synchronize:
        synchronize()
    wall = time.perf_counter() - wall
    return Seconds(wall, _cpu_seconds() - cpu)


def added_memory(run: Callable[[], Any], device: str) -> int:
    """Return how far a call raises the peak of this process's memory, bytes; on a GPU of tensors.

    On Linux a new process starts at zero, even if it was spawned by one that holds more.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = _peak_memory(device)
    run()
    return _peak_memory(device) - before


def _peak_memory(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # rusage would count what the spawning process held, too
        lines = status.read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def median(times: Iterable[Seconds]) -> Seconds:
    """Return the median wall time and the median CPU time."""
    walls, cpus = zip(*times, strict=True)
    return Seconds(statistics.median(walls), statistics.median(cpus))


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of packages."""
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found}


def machine(device: str, packages: Sequence[str], **more: Any) -> dict[str, Any]:
    """Return what the numbers depend on, and nothing that names this one machine.

    Args:
        device: "cpu" or "cuda".
        packages: whose versions matter.
        more: settings such as the number of threads.
    """
    gpu = {"gpu": device_name(device)} if device == "cuda" else {}
    cores = {"cpu": cpu_name(), "cores": psutil.cpu_count(logical=False) or psutil.cpu_count()}
    return {**cores, **gpu, **more, "versions": versions(packages)}


def solver_machine(threads: int) -> dict[str, Any]:
    """Return `machine` with the linear algebra that numpy and scikit-learn stand on."""
    blas = {f"{i['internal_api']} {i['version']}" for i in threadpool_info()
            if i["user_api"] == "blas"}  # fmt: skip
    packages = ("numpy", "scipy", "scikit-learn")
    return machine("cpu", packages, blas=sorted(blas), blas_threads=threads)


def report_ratio(
    name: str, ours: float, reference: float, target: float | None = None
) -> dict[str, Any]:
    """Print how many times faster than the reference we are; return it for the json."""
    ours, reference = float(ours), float(reference)  # numpy's numbers make bools json cannot write
    ratio = reference / ours
    result: dict[str, Any] = {"ours_s": ours, "reference_s": reference, "ratio": ratio}
    verdict = ""
    if target is not None:
        result |= {"target": target, "met": ratio >= target}
        verdict = f" (target >= {target:g}: {'met' if result['met'] else 'not met'})"
    print(f"{name}: ours {ours:.3g} s, reference {reference:.3g} s, ratio {ratio:.3g}{verdict}",
          flush=True)  # fmt: skip
    return result


def report_limit(name: str, seconds: float, target: float) -> dict[str, Any]:
    """Print a time against the most that it may be; return it for the json."""
    met = seconds <= target
    verdict = f"target <= {target:g} s: {'met' if met else 'not met'}"
    print(f"{name}: {seconds:.3g} s ({verdict})", flush=True)
    return {"seconds": seconds, "target": target, "met": met}


def arguments(doc: str | None, name: str) -> argparse.ArgumentParser:
    """Return a parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}", description=(doc or "").partition("\n")[0]
    )
    parser.add_argument("--out", type=Path, help="json to write; default: benchmarks/results/")
    return parser


def write(out: Path | None, name: str, result: Mapping[str, Any]) -> None:
    """Write the json: to `out`, or to results/<name>.json, with the card's name if there is one."""
    gpu = result["machine"].get("gpu")
    suffix = f".{gpu.replace(' ', '_').lower()}" if gpu else ""
    out = out or RESULTS / f"{name}{suffix}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
