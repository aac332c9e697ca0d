"""One training loop for all methods.

A run's folder holds `model.pt` (the result, whole or absent), `train.json` (what it took and
where it comes from), `log.jsonl` (losses) and, until its model is used, `checkpoint.pt` and the
one before it. Every step's random draws have a seed made of the run's seed and the step, and the
order of the data follows from the same, so a run that was stopped anywhere and started again
ends in the same bytes on the CPU.
"""

import json
import math
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer

from partbench import method as methods
from partbench.checkpoint import CHECKPOINTS, move_aside
from partbench.data.batch import Batch
from partbench.data.crop import check_crop
from partbench.data.loader import Loader, Schedule
from partbench.data.prepared import Prepared
from partbench.epoch_choice import EpochChoice
from partbench.errors import BadInput, in_short
from partbench.files import atomic, explained, locked, sha256, sweep
from partbench.integrity import check_archive, write_record
from partbench.method import DataInfo, Method
from partbench.model import FORMAT, SNAPSHOT, precision_of, save_model, snapshots
from partbench.nn.shared_batch import share_layers, shared
from partbench.outputs.capability import check_outputs, offered_by
from partbench.processes import Agreement, StopFlag, connect, stop_signals
from partbench.progress import Progress
from partbench.provenance import provenance
from partbench.released import load_released
from partbench.run import Run, Runtime

LOG_POINTS = 200  # lines in log.jsonl over a whole run


class Stopped(Exception):
    """A signal asked the run to stop; its state is in the checkpoint."""


def train(run: Run, settings: Any, runtime: Runtime, data: Path, out: Path, code: str = "") -> None:
    """Train one run, or resume it where it stopped.

    Args:
        run: method, variant, training data and seed.
        settings: an instance of the method's own `Settings`.
        runtime: device, precision, threads.
        data: the folder of the prepared training data.
        out: the run's folder.
        code: fingerprint of the code that trains.

    Raises:
        BadInput: the data do not fit the method, a loss is not finite, another process holds the
            folder, or the disk is full.
        Stopped: SIGTERM or SIGUSR1 arrived; the state is saved.
    """
    torch.set_num_threads(runtime.threads_each)
    fabric = connect(runtime)
    if fabric.global_rank:
        _Training(fabric, run, settings, runtime, Prepared(data), out, code).go()
        return
    with locked(out):
        sweep(out, "checkpoint.pt", "log.jsonl", "model.pt", "train.json")
        _Training(fabric, run, settings, runtime, Prepared(data), out, code).go()


class _Training:
    def __init__(
        self,
        fabric: Fabric,
        run: Run,
        settings: Any,
        runtime: Runtime,
        data: Prepared,
        out: Path,
        code: str,
    ) -> None:
        self.fabric, self.run, self.settings = fabric, run, settings
        self.runtime, self.data, self.out, self.code = runtime, data, out, code
        cls = methods.load(run.method)
        split = data.training_split(cls.learns_from, settings.training_crop == "window")
        check_crop(settings, data.cut, str(split.folder))
        methods.check_reads(cls, split.frames, str(split.folder))
        self.schedule = Schedule(len(split), settings, run.seed)
        methods.check_shares(cls, settings, fabric.world_size, str(run))
        self.loader = Loader(
            split,
            self.schedule,
            fabric.device,
            cls.learns_from,
            landmark_swap=data.meta["landmark_swap"],
            one_frame=cls.reads == "frames",
            rank=fabric.global_rank,
            world=fabric.world_size,
            parts=cls.parts() * cls.groups,
        )
        self.agreement = Agreement(fabric.world_size)
        torch.manual_seed(run.seed)
        about = DataInfo(
            data.size,
            data.classes,
            data.landmarks,
            split.frames,
            data.cut.crop,
            data.meta.get("foreground", {}).get("by", ""),
            data.attributes,
            data.clusters,
            data.is_flow,
        )
        self.method: Method = cls(settings, about)
        self.method.to(memory_format=torch.channels_last)
        self.optimizers: dict[str, Optimizer] = self.method.optimizers()
        self.step, self.seconds = 0, 0.0
        self.window: dict[str, tuple[Tensor, int]] = {}
        self.lines: list[str] = []
        self.released: dict[str, Any] = {}
        chooses = methods.chooses_epoch(settings)
        self.choice = EpochChoice(data, fabric.device) if chooses else None

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be resumed."""
        return {
            "format": FORMAT,
            "run": self.run._asdict(),
            "settings": self.settings.model_dump(mode="json"),
            "data": self.data.meta["checksum"],
        }

    def go(self) -> None:
        """Train to the end and write the model."""
        module: Any = torch.compile(self.method) if self.runtime.compile else self.method
        if self.fabric.world_size > 1:
            share_layers(self.method)
        # DDP refuses a module that learns nothing.
        wrapped = (
            self.fabric.setup(module, *self.optimizers.values())
            if self.optimizers
            else self.fabric.to_device(module)
        )
        model, *optimizers = wrapped if isinstance(wrapped, tuple) else (wrapped,)
        updates = dict(zip(self.optimizers, optimizers, strict=True))
        if not self._resume():
            if methods.is_released(self.settings):
                self.released = load_released(self.method)
            else:
                self.method.fit(self.loader.ordered)
                self.agreement.give(self.method)
            check_outputs(self.method, next(self.loader.ordered()).images[:2])
            self._keep(0)
        every = max(self.schedule.steps // LOG_POINTS, 1)
        began = time.monotonic() - self.seconds
        saved = time.monotonic()
        with (
            stop_signals() as stop,
            Progress(
                str(self.run),
                self.schedule.steps,
                "steps",
                self.step,
                self.fabric.is_global_zero,
            ) as progress,
        ):
            for batch in self.loader.batches(self.step):
                epoch, within = divmod(self.step, self.schedule.steps_per_epoch)
                if within == 0:
                    self.method.begin_epoch(epoch)
                self._one_step(model, updates, batch)
                if within + 1 == self.schedule.steps_per_epoch:
                    self._look(epoch + 1)
                    self._keep(epoch + 1)
                self.seconds = time.monotonic() - began
                note = self._log() if self.step % every == 0 else ""
                progress.advance(1, note)
                late = time.monotonic() - saved > 60 * self.runtime.checkpoint_minutes
                due, stopping = self.agreement.any(late, stop.is_set)
                if due or stopping:
                    self._save_checkpoint()
                    saved = time.monotonic()
                if stopping:
                    self.fabric.barrier()  # the end of a process ends the others, if it fails them
                    raise Stopped(
                        f"{self.run}: stopped at step {self.step}; run the same command again to "
                        "resume"
                    )
            if self.choice and self.fabric.is_global_zero:
                self.choice.restore(self.method)
            self.agreement.give(self.method)
            if not self.released:  # weights that are read again rather than remembered
                self._save_checkpoint()
            self.method.finish(lambda split="": self._last_pass(stop, split))
        if self.window:
            self._log()
        for name, value in self.method.state_dict().items():
            if value.is_floating_point() and not value.isfinite().all():
                raise BadInput(
                    f"{self.run}: {name} is not finite after the last step; lower the learning rate"
                )
        of_steps, self.seconds = self.seconds, time.monotonic() - began
        if self.fabric.is_global_zero:
            self._finish(of_steps)
        self.fabric.barrier()

    def _last_pass(self, stop: StopFlag, split: str) -> Iterator[Batch]:
        """Go over a split after the last step, the training split by default."""
        self.method.eval()
        loader = self.loader
        if split:
            loader = Loader(
                self.data.split(split),
                self.schedule,
                self.fabric.device,
                "images",
                one_frame=loader.one_frame,
            )
        for batch in loader.ordered():
            if any(self.agreement.any(stop.is_set)):
                raise Stopped(
                    f"{self.run}: stopped after the last step, in a pass over the data that "
                    "follows it; run the same command again to resume"
                )
            yield batch

    def _one_step(self, model: Any, updates: dict[str, Any], batch: Batch) -> None:
        # One seed a step, so that a resumed run draws what the whole run would have. All processes
        # draw for the whole batch.
        place = (self.run.seed, self.step, 0)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1))
        self.method.train()
        for phase, seen in self.method.updates(batch):
            if len(updates) > 1:  # no gradients for the players that stand still
                for name, optimizer in self.optimizers.items():
                    for group in optimizer.param_groups:
                        for parameter in group["params"]:
                            parameter.requires_grad_(name == phase)
            updates[phase].zero_grad()
            with shared(self.fabric.global_rank, self.fabric.world_size):
                terms = model(seen, phase)
                self.fabric.backward(terms["loss"])
            updates[phase].step()
            for term, value in terms.items():
                key = f"{phase}/{term}"
                total, count = self.window.get(key, (torch.zeros((), device=value.device), 0))
                self.window[key] = (total + value.detach().float(), count + 1)
        self.step += 1
        self.method.after_step(self.step)

    def _look(self, epoch: int) -> None:
        """Measure the method after an epoch, counted from 1, if epochs are chosen and it is due."""
        due = epoch % getattr(self.settings, "look_every", 1) == 0 or epoch == self.settings.epochs
        if self.choice and due and self.fabric.is_global_zero:
            self.choice.look(self.method, epoch)

    def _keep(self, epoch: int) -> None:
        """Keep the model after an epoch, if that is asked for and it is not the last."""
        if not self.fabric.is_global_zero:
            return
        if epoch == 0:
            for path in snapshots(self.out / "model.pt").values():
                path.unlink()  # of another training
        generates = "generated_images" in offered_by(type(self.method))
        if generates and epoch in self.runtime.snapshots and epoch < self.settings.epochs:
            save_model(self.method, self.identity, self.out / SNAPSHOT.format(epoch))

    def _means(self) -> dict[str, float]:
        """Return the mean of every term since the last line of the log, over all processes.

        The sums that it is taken of become those of the whole batches in every process.

        Raises:
            BadInput: one is not finite.
        """
        if self.fabric.world_size > 1:
            sums = self.agreement.mean([total.item() for total, _ in self.window.values()])
            self.window = {
                key: (torch.tensor(total, device=of.device), count)
                for total, (key, (of, count)) in zip(sums, self.window.items(), strict=True)
            }
        means = {key: (total / count).item() for key, (total, count) in self.window.items()}
        for key, value in means.items():
            if not math.isfinite(value):
                raise BadInput(
                    f"{self.run}: {key} is {value} near step {self.step}; what was saved in "
                    f"{self.out} is from before. Lower the learning rate, or look at the curve "
                    "in log.jsonl"
                )
        return means

    def _log(self) -> str:
        """Add a line to the log; return the loss for the progress bar."""
        means = self._means()
        self.window = {}
        line = {
            "step": self.step,
            "images": self.step * self.settings.batch_size,
            "seconds": round(self.seconds, 3),
        }
        self.lines.append(json.dumps(line | means))
        if self.fabric.is_global_zero:
            with explained(self.out), (self.out / "log.jsonl").open("a") as file:
                file.write(self.lines[-1] + "\n")
        return ", ".join(f"{k} {v:.4g}" for k, v in means.items() if k.endswith("/loss"))

    def _save_checkpoint(self) -> None:
        self._means()  # a state that is not finite must not take the place of a good one
        state = {
            "identity": json.dumps(self.identity, sort_keys=True),
            "code": self.code,
            "step": self.step,
            "seconds": self.seconds,
            "lines": self.lines,
            "window": self.window,
            "model": self.method.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "choice": self.choice.state() if self.choice else {},
        }
        if self.fabric.is_global_zero:
            newest, before = (self.out / name for name in CHECKPOINTS)
            with atomic(newest) as aside:
                torch.save(state, aside)
                if newest.exists():
                    newest.replace(before)

    def _resume(self) -> bool:
        """Take up the newest checkpoint; return whether there is one."""
        state = self._load_checkpoint() if self.fabric.is_global_zero else None
        newest = self.agreement.told(state and state["path"])
        if newest and not state:
            state = self._read_checkpoint(newest)
        if state:
            self.step, self.seconds = state["step"], state["seconds"]
            self.lines, self.window = state["lines"], state["window"]
            begun = state.get("code", "unknown")
            # "a+b": the code a began the run, b resumed it.
            self.code = begun if begun.endswith(self.code) else f"{begun}+{self.code}"
            self.method.load_state_dict(state["model"])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
            if self.choice:
                self.choice.load(state["choice"])
        if self.fabric.is_global_zero:
            with explained(self.out):
                (self.out / "log.jsonl").write_text("".join(f"{line}\n" for line in self.lines))
        return state is not None

    def _load_checkpoint(self) -> dict[str, Any] | None:
        """Return the newest checkpoint of this run, if there is one.

        One that is damaged, or of another run, other settings or other data, is moved aside.
        """
        identity = json.loads(json.dumps(self.identity))
        for path in (self.out / name for name in CHECKPOINTS):
            if not path.exists():
                continue
            try:
                check_archive(path)
                state = self._read_checkpoint(path)
                written = json.loads(state["identity"])
            except Exception as error:  # torch raises anything on a damaged file
                move_aside(path, "damaged", f"is damaged ({in_short(error)})")
                continue
            # Other code may go on with a training, but not pass off a finished one as its own.
            if state["step"] == self.schedule.steps:
                written["code"], identity["code"] = state.get("code"), self.code
            if written == identity:
                return state | {"path": str(path)}
            differ = ", ".join(key for key, value in identity.items() if written.get(key) != value)
            move_aside(path, "other", f"was begun with another {differ}")
        return None

    def _read_checkpoint(self, path: Path | str) -> dict[str, Any]:
        return dict(torch.load(path, map_location=self.fabric.device, weights_only=True))

    def _finish(self, of_steps: float) -> None:
        """Write the model and its record, given the seconds that the steps took."""
        device = self.fabric.device.type
        peak = (
            torch.cuda.max_memory_allocated()
            if device == "cuda"
            else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        )
        images = self.step * self.settings.batch_size
        last = json.loads(self.lines[-1]) if self.lines else {}
        cls = type(self.method)
        write_record(
            self.out / "train.json",
            {
                "run": self.run._asdict(),
                "role": methods.role_of(cls, self.settings),
                "paper": cls.paper,
                "settings": self.settings.model_dump(mode="json"),
                "changes": methods.changes(cls, self.run.variant, self.settings),
                "deviations": [
                    deviation._asdict() for deviation in methods.deviations(cls, self.run.variant)
                ],
                "runtime": self.runtime.model_dump(mode="json"),
                "precision": precision_of(self.runtime),
                "data_checksum": self.data.meta["checksum"],
                "subset": self.data.meta["subset"],
                "steps": self.step,
                "images": images,
                "parameters": sum(p.numel() for p in self.method.parameters()),
                "seconds": round(self.seconds, 3),
                "images_per_second": round(images / of_steps, 1) if images else None,
                "peak_memory_mb": round(peak / 2**20, 1),
                "final": {k: v for k, v in last.items() if "/" in k},
                "released": self.released,
                "chosen": self.choice.record() if self.choice else {},
                "log": sha256(self.out / "log.jsonl"),
                "provenance": provenance(device, self.code),
            },
        )
        save_model(self.method, self.identity, self.out / "model.pt")
