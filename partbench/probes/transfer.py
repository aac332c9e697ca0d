"""Transfer to few labels: LORBMS's protocol on STL-10, a linear layer on a network's features.

For each fold of the training images, a softmax layer is trained on the flattened features of the
network, which is frozen, or trained with it. Frozen, the network is in eval mode: neither weights,
nor statistics of BatchNorm, nor vectors of spectral norm change. Every image of a batch is another
random part of a training image. Test images show their middle. Fine-tuned, the vectors of spectral
norm advance after every step.

Facts: the thesis of Zbinden (2019) and `src/evaluation` of its code at commit 14fe359f. Its traps:

- Its accuracy is the mean, over the batches of one pass over the test images, of the accuracy so
  far, in which the first images count most, and 64 of 8,000 count twice. The reading `running
  mean` is that number. The others are plain accuracies.
- The SD that it prints is no SD over folds: it is the SD, over folds, of the SD of the accuracy so
  far within a fold. `details` has both.
- Adam's beta1 is 0.5 where the text says default, and the random colours of its training images
  have no effect.
- It goes on updating the vectors of spectral norm of a "frozen" discriminator, from new ones.
- It mixes training images by a buffer of 128, so a batch holds neighbours of the fold's list. Here,
  every pass over a fold has an order of its own.
- It resizes as the first TensorFlow did, up to half a pixel off.
"""

import copy
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from partbench import checkpoint
from partbench.data.fold_stream import FoldStream
from partbench.data.prepared import Prepared, Split
from partbench.data.random_crops import RandomCrops
from partbench.errors import BadInput, in_short
from partbench.files import sha256
from partbench.method import Method, name_of
from partbench.metrics.accuracy import running_accuracy, running_weights
from partbench.model import load_model
from partbench.nn.spectral import advance
from partbench.probe import Numbers, Probe, Result, Setting
from partbench.probes.linear import check_folds
from partbench.progress import Progress
from partbench.settings import Settings

Training = Literal["frozen", "fine-tuned"]
Reading = Literal["all test images", "running mean"]
FOLDS = 10
"""Of STL-10."""
CHUNK = 256
"""Images that a frozen network reads at once."""
HEAD_SD, HEAD_BIAS = 0.02, 0.02


class TransferSettings(Settings):
    """The code's values."""

    training: tuple[Training, ...] = Field(
        ("frozen", "fine-tuned"), min_length=1, description="what happens to the network"
    )
    epochs: int = Field(
        200, ge=1, description="of N // batch_size + 1 steps each; N images in a fold"
    )
    tuned_epochs: int | None = Field(
        None, ge=1, description="of a network that is trained too; none: as many as `epochs`"
    )
    tuned_folds: int | None = Field(
        None,
        ge=1,
        description="the first folds, on which a network is trained too, which takes minutes for "
        "each where all folds of a frozen one take seconds; none: all",
    )
    batch_size: int = Field(128, ge=1)
    learning_rate: float = Field(1e-3, gt=0, description="Adam")
    beta1: float = Field(0.5, ge=0, lt=1, description="Adam; the thesis's text says the default")


class TransferSetting(Setting):
    """What tells numbers of a metric apart."""

    part: str = Field("", description="of the method, such as `encoder`; empty: not told")
    network: Literal["", Training] = Field("", description="empty: not told")
    reading: Reading = "all test images"

    def __str__(self) -> str:
        read = "" if self.reading == "all test images" else self.reading
        return ", ".join(filter(None, (self.part, self.network, read)))


class Transfer(Probe):
    """Accuracy of a linear layer on the features of each of a method's networks, over folds."""

    Settings = TransferSettings
    Setting = TransferSetting
    references = ("zbinden2019lorbms",)
    version = 1
    needs = ("trunks",)
    reads = "model"

    @classmethod
    def annotations(cls, settings: Any) -> tuple[tuple[str, ...], ...]:
        """Return what the data must have; see `Probe.annotations`."""
        return (("labels",),)

    @classmethod
    def trained(
        cls, settings: Any, method: Method, n_train: int
    ) -> Iterable[tuple[nn.Module, float]]:
        """Yield each network, frozen and not, and its images; see `Probe.trained`.

        Folds are taken to be ten, of a fifth of the training images each, as STL-10's. A frozen
        network sees every image once for all folds.
        """
        passes = {
            "frozen": settings.epochs,
            "fine-tuned": (settings.tuned_epochs or settings.epochs)
            * min(settings.tuned_folds or FOLDS, FOLDS)
            / 5,
        }
        for trunk in method.trunks().values():  # type: ignore[operator]
            for training in settings.training:
                trunk.requires_grad_(training == "fine-tuned")
                yield trunk, n_train * passes[training]

    def run(self, source: Path, data: Path, settings: Any, seed: int, device: str) -> Result:
        """Train the layers and measure them; see `Probe.run`."""
        prepared = Prepared(data)
        _, method = load_model(source, device)
        train, test = prepared.split("train"), prepared.split("test")
        if prepared.whole or train.frames:
            raise BadInput(f"{data}: transfer needs square images; use data with another `crop`")
        folds = np.arange(len(train))[None]
        if train.has("folds"):
            folds = np.array(train.annotation("folds"))
            check_folds(folds, len(train), str(data))
        stream = FoldStream(train, folds, settings.batch_size, seed)
        origin = json.dumps(
            [
                self.version,
                settings.model_dump(mode="json", exclude={"training"}),
                seed,
                sha256(source),
                prepared.meta["checksum"],
            ]
        )
        numbers, details = Numbers("%", "higher"), {}
        left: list[Path] = []
        for part, trunk in method.trunks().items():  # type: ignore[operator]
            for training in settings.training:
                scratch = source.with_name(
                    f"transfer-{prepared.meta['data_set']}.{part}.{training}.pt"
                )
                fit = _Fit(method, part, trunk, prepared.classes, settings, seed, scratch, origin)
                train_ = fit.frozen if training == "frozen" else fit.tuned
                correct = train_(stream, test)
                details[f"{part}, {training}"] = fit.sizes | _add(
                    numbers, correct, part, training, settings.batch_size
                )
                left.append(scratch)
        return numbers.result(details, scratch=left)


def _add(
    numbers: Numbers, correct: NDArray[np.bool_], part: str, training: Training, batch: int
) -> dict[str, Any]:
    """Add both readings of outcomes [F, N]; return accuracies by fold and their SDs, %."""
    n = correct.shape[1]
    by_image = correct.mean(0)
    numbers.add("top1", TransferSetting(part=part, network=training), by_image, scale=100)
    numbers.add(
        "top1",
        TransferSetting(part=part, network=training, reading="running mean"),
        by_image * running_weights(n, batch) * n,
        scale=100,
        note="the thesis's: the mean of the accuracy so far, in which the first images count most",
    )
    accuracy, running = 100 * correct.mean(1), 100 * running_accuracy(correct, batch)
    several = len(correct) > 1
    return {
        "per fold": accuracy.tolist(),
        "sd over folds": float(accuracy.std(ddof=1)) if several else None,
        "running mean per fold": running.mean(1).tolist(),
        "sd of the thesis": float(running.std(1).std()) if several else None,
    }


class _Fit:
    """Trains linear layers on one network of a method."""

    def __init__(
        self,
        method: Method,
        part: str,
        trunk: nn.Module,
        classes: int,
        settings: TransferSettings,
        seed: int,
        scratch: Path,
        origin: str,
    ) -> None:
        self.method, self.trunk, self.classes = method, trunk, classes
        self.settings, self.seed, self.scratch, self.origin = settings, seed, scratch, origin
        self.named = f"transfer, {part} of {name_of(type(method))}"
        self.device = method.mean.device
        self.width = 0

    @property
    def sizes(self) -> dict[str, int]:
        """The number of features, and of the layer's weights and biases."""
        return {"features": self.width, "head": self.classes * (self.width + 1)}

    def _features(self, trunk: nn.Module, images: Tensor) -> Tensor:
        return trunk(self.method.normalize(images)).float().flatten(1)

    def _measure_width(self, side: int) -> None:
        """Find the number of features of an image of `side` pixels.

        Raises:
            BadInput: the network cannot read such images.
        """
        try:
            with torch.inference_mode():
                images = torch.zeros(1, 3, side, side, device=self.device)
                self.width = self._features(self.trunk.eval(), images).shape[1]
        except RuntimeError as error:
            raise BadInput(
                f"{self.named} cannot read images of {side} px ({in_short(error)}); prepare the "
                "data at another `size`"
            ) from None

    def _head(self) -> nn.Linear:
        """Return the first layer, the same for every fold."""
        head = nn.Linear(self.width, self.classes)
        draw = torch.Generator().manual_seed(self.seed)
        nn.init.normal_(head.weight, std=HEAD_SD, generator=draw)
        nn.init.constant_(head.bias, HEAD_BIAS)
        return head.to(self.device)

    def _adam(self, parameters: Any) -> torch.optim.Adam:
        s = self.settings
        return torch.optim.Adam(parameters, s.learning_rate, (s.beta1, 0.999))

    def frozen(self, stream: FoldStream, test: Split) -> NDArray[np.bool_]:
        """Train the layers of all folds together; return which test images are right, [F, N]."""
        self._measure_width(stream.side)
        trunk = self.trunk.eval().requires_grad_(False)
        head, n = self._head(), len(stream.folds)
        heads = nn.ParameterDict(
            {"weight": head.weight.repeat(n, 1, 1), "bias": head.bias.repeat(n, 1)}
        )
        optimizer = self._adam(heads.parameters())
        label = f"{self.named}, frozen"
        steps = self.settings.epochs * stream.steps_per_epoch
        first = self._resume(heads, optimizer)["step"]
        features = _Features(stream, lambda images: self._features(trunk, images), self.device)
        saved = time.monotonic()
        with Progress(label, steps, "steps", first) as progress:
            for step in range(first, steps):
                x, labels = features.at(stream.places(step))
                logits = torch.baddbmm(heads["bias"].unsqueeze(1), x, heads["weight"].mT)
                # The sum over folds of each one's mean, so that no fold sees the others.
                loss = n * F.cross_entropy(logits.flatten(0, 1), labels.flatten())
                self._update(optimizer, loss, label)
                progress.advance()
                if time.monotonic() - saved > 60 or step + 1 == steps:
                    self._save(heads, optimizer, {"step": step + 1})
                    saved = time.monotonic()
        correct = []
        for images, truth in self._test_images(test):
            with torch.inference_mode():
                x = self._features(trunk, images).expand(n, -1, -1)
                logits = torch.baddbmm(heads["bias"].unsqueeze(1), x, heads["weight"].mT)
            correct.append(self._right(logits, truth))
        return np.concatenate(correct, 1)

    def tuned(self, stream: FoldStream, test: Split) -> NDArray[np.bool_]:
        """Train a copy of the network with each fold's layer; return which images are right."""
        self._measure_width(stream.side)
        steps = (self.settings.tuned_epochs or self.settings.epochs) * stream.steps_per_epoch
        folds = len(stream.folds[: self.settings.tuned_folds])
        done: list[NDArray[np.bool_]] = []
        total = steps * folds
        network, optimizer = self._whole()
        state = self._resume(network, optimizer)
        if "correct" in state:
            done = list(state["correct"].cpu().numpy())
        first, saved = state["step"], time.monotonic()
        label = f"{self.named}, fine-tuned"
        with Progress(label, total, "steps", len(done) * steps + first) as progress:
            for fold in range(len(done), folds):
                for step in range(first, steps):
                    place = np.random.SeedSequence((self.seed, fold, step)).generate_state(1)
                    torch.manual_seed(int(place[0]))
                    network.train()
                    images, labels = stream.images(stream.places(step)[fold], self.device)
                    logits = network[1](self._features(network[0], images))
                    self._update(optimizer, F.cross_entropy(logits, labels), label)
                    advance(network)
                    progress.advance()
                    if time.monotonic() - saved > 60 and step + 1 < steps:
                        self._save(network, optimizer, self._progress(step + 1, done))
                        saved = time.monotonic()
                done.append(self._scored(network, test))
                network, optimizer = self._whole()
                first = 0
                self._save(network, optimizer, self._progress(0, done))
        return np.stack(done)

    @staticmethod
    def _progress(step: int, done: list[NDArray[np.bool_]]) -> dict[str, Any]:
        return {"step": step} | ({"correct": torch.from_numpy(np.stack(done))} if done else {})

    def _whole(self) -> tuple[nn.Sequential, torch.optim.Adam]:
        """Return a copy of the network with a new layer, and what trains both."""
        trunk = copy.deepcopy(self.trunk).requires_grad_(True)
        network = nn.Sequential(trunk, self._head()).to(memory_format=torch.channels_last)
        return network, self._adam(network.parameters())

    def _scored(self, network: nn.Sequential, test: Split) -> NDArray[np.bool_]:
        """Return which test images are right, [N]."""
        network.eval()
        correct = []
        for images, truth in self._test_images(test):
            with torch.inference_mode():
                logits = network[1](self._features(network[0], images))
            correct.append(self._right(logits, truth))
        return np.concatenate(correct)

    def _test_images(self, test: Split) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the middles of the test images with their labels, in order."""
        labels = np.array(test.annotation("labels"))
        side = int(test.images.shape[-2])
        for start in range(0, len(test), CHUNK):
            some = slice(start, start + CHUNK)
            images = torch.from_numpy(np.array(test.images[some])).to(self.device)
            truth = torch.from_numpy(labels[some]).to(self.device)
            yield RandomCrops.central(len(images), side).of(images), truth

    def _right(self, logits: Tensor, truth: Tensor) -> NDArray[np.bool_]:
        if not logits.isfinite().all():
            raise BadInput(
                f"{self.named}: scores of test images are not finite; lower "
                "probes.transfer.learning_rate"
            )
        return np.asarray((logits.argmax(-1) == truth).cpu().numpy())

    def _update(self, optimizer: torch.optim.Adam, loss: Tensor, label: str) -> None:
        if not torch.isfinite(loss):
            raise BadInput(
                f"{label}: the loss is {loss.item()}; lower probes.transfer.learning_rate"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def _save(
        self, network: nn.Module, optimizer: torch.optim.Adam, progress: dict[str, Any]
    ) -> None:
        states = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
        checkpoint.save(self.scratch, self.origin, states | progress)

    def _resume(self, network: nn.Module, optimizer: torch.optim.Adam) -> dict[str, Any]:
        """Take up a fit that was stopped; return how far it came."""
        state = checkpoint.load(self.scratch, self.origin, self.device)
        if state is None:
            return {"step": 0}
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        return state


class _Features:
    """Features of the endless order, in chunks that are kept as long as a fold may ask for them.

    Chunks start at multiples of their size, so that a fit that resumes reads the same ones.
    """

    def __init__(self, stream: FoldStream, network: Any, device: torch.device) -> None:
        self.stream, self.network, self.device = stream, network, device
        self.chunks: dict[int, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def at(self, places: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return features [F, B, D] and labels [F, B] at the places [F, B] of the next step."""
        low, high = int(places.min()) // CHUNK, int(places.max()) // CHUNK
        for chunk in range(low, high + 1):
            if chunk not in self.chunks:
                standing = np.arange(chunk * CHUNK, (chunk + 1) * CHUNK)
                images, labels = self.stream.images(standing, self.device)
                self.chunks[chunk] = (self.network(images), labels)
        self.chunks = {chunk: self.chunks[chunk] for chunk in range(low, high + 1)}
        x, labels = (torch.cat(parts) for parts in zip(*self.chunks.values(), strict=True))
        where = torch.from_numpy(places - low * CHUNK).to(self.device)
        return x[where], labels[where]
