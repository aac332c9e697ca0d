"""PatchVAE's downstream protocol: a two-layer head on an encoder whose front is frozen.

Not a linear probe: the head has 512 hidden units and the rest of the encoder is trained with it.
The paper's number is the best test accuracy over the epochs, which chooses the epoch on the test
set. Beside it stand the accuracy at the epoch that held-out training images choose, and at the
last epoch. Facts: `classifier.py` of the authors' code at commit 816f4b4.
"""

import copy
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from partbench import checkpoint
from partbench.data.loader import Loader, Schedule, to_float
from partbench.data.prepared import Prepared, Split
from partbench.errors import BadInput
from partbench.files import sha256
from partbench.method import Method, MethodSettings, name_of
from partbench.metrics.accuracy import label_ranks
from partbench.metrics.held_out import hold_out
from partbench.model import load_model_for
from partbench.nn.init import init_patchvae_
from partbench.outputs.trunks import ENCODER
from partbench.probe import Numbers, Probe, Result, Setting
from partbench.progress import Progress
from partbench.settings import Settings

Freeze = Literal["conv1", "conv1-3", "conv1-5", "conv1-9", "all"]
TOP5_FROM = 10  # classes; below that, top-5 says little
STAGES = 5
"""Modules of a ResNet up to the end of its first stage, conv1 to layer1."""


class ClassifySettings(Settings):
    """The code's defaults."""

    freeze: tuple[Freeze, ...] = Field(
        ("conv1", "conv1-3", "conv1-5"),
        min_length=1,
        description="layers that are frozen: conv1; and the first block of layer1; and all of "
        "layer1; and layer2, which leaves the last two blocks; the whole encoder",
    )
    epochs: int = Field(90, ge=1)
    batch_size: int = Field(256, ge=1)
    learning_rate: float = Field(0.1, gt=0, description="SGD, momentum 0.9")
    weight_decay: float = Field(1e-4, ge=0)
    drop_every: int = Field(30, ge=1, description="epochs after which the rate falls to a tenth")
    hidden: int = Field(512, ge=1, description="units of the head's hidden layer")
    dropout: float = Field(0.5, ge=0, lt=1, description="before the hidden layer")
    pool: bool = Field(
        False, description="average the encoder's map over places (the code's ImageNet run)"
    )
    held_out: float = Field(
        0.1, gt=0, lt=1, description="share of the training images that chooses the epoch"
    )


class ClassifySetting(Setting):
    """What tells numbers of a metric apart."""

    frozen: Freeze


class Curve(NamedTuple):
    """How well some images are classified after each epoch."""

    ranks: NDArray[np.uint8]
    """[epochs, N], classes that score higher than the true one, 5 for five or more."""

    def accuracy(self, k: int = 1) -> NDArray[np.float64]:
        """Return the top-k accuracy after each epoch, percent; k at most 5."""
        return 100 * (self.ranks < k).mean(1)


class Classify(Probe):
    """Top-1 accuracy after training a head and the encoder's rear, for each frozen front."""

    Settings = ClassifySettings
    Setting = ClassifySetting
    # The README's command for ImageNet: the rate never drops, and the whole encoder is frozen. The
    # paper's text is said to fine-tune its last two blocks, so both are measured.
    PAPER = {"imagenet": {"freeze": ("conv1-9", "all"), "epochs": 30, "pool": True}}
    references = ("gupta2020patchvae",)
    version = 2
    """Since 2 whole groups are held out where images have them, and never all of a class."""
    needs = ("trunks",)
    reads = "model"

    SELECTIONS = {
        "": "the paper's: the epoch is chosen on the test set",
        "held-out epoch": "honest: the epoch is chosen on held-out training images",
        "last epoch": "honest: no choice",
    }

    @classmethod
    def annotations(cls, settings: Any) -> tuple[tuple[str, ...], ...]:
        """Return what the data must have; see `Probe.annotations`."""
        return (("labels",),)

    def run(self, source: Path, data: Path, settings: Any, seed: int, device: str) -> Result:
        """Train the classifiers and measure them; see `Probe.run`."""
        prepared = Prepared(data)
        _, method = load_model_for(prepared, source, device)
        train, test = prepared.split("train"), prepared.split("test")
        labels = np.array(train.annotation("labels"))
        groups = np.array(train.annotation("groups")) if train.has("groups") else None
        codes = np.unique(labels, return_inverse=True)[1]
        draw = np.random.default_rng([seed, 1])
        held = hold_out(codes, settings.held_out, draw, groups, f"{data}, training images")
        kept, held_out = np.flatnonzero(~held), np.flatnonzero(held)
        everything = np.arange(len(labels))
        origin = [sha256(source), prepared.meta["checksum"]]
        fit = _Fit(settings, method, prepared.classes, seed, device, origin)
        scratch = source.with_name(f"classify-{prepared.meta['data_set']}")
        numbers, details = Numbers("%", "higher"), {}
        for freeze in settings.freeze:
            chooser = fit.curve(freeze, (train, kept), (train, held_out), scratch)
            curve = fit.curve(freeze, (train, everything), (test, np.arange(len(test))), scratch)
            epochs = {
                "": int(curve.accuracy().argmax()),
                "held-out epoch": int(chooser.accuracy().argmax()),
                "last epoch": settings.epochs - 1,
            }
            for selection, epoch in epochs.items():
                for k in (1, 5) if prepared.classes >= TOP5_FROM else (1,):
                    numbers.add(
                        f"top{k} {selection}".strip(),
                        ClassifySetting(frozen=freeze),
                        curve.ranks[epoch] < k,
                        scale=100,
                        note=self.SELECTIONS[selection],
                    )
            details[freeze] = {
                "epochs": epochs,
                "test accuracy": curve.accuracy().tolist(),
                "held-out accuracy": chooser.accuracy().tolist(),
            }
        left = sorted(scratch.parent.glob(f"{scratch.name}.*.pt"))
        return numbers.result(details, scratch=left)

    @classmethod
    def trained(
        cls, settings: Any, method: Method, n_train: int
    ) -> Iterable[tuple[nn.Module, float]]:
        """Yield the classifier of each frozen front and its images; see `Probe.trained`."""
        fit = _Fit(settings, method, TOP5_FROM, 0, "meta", [])
        for freeze in settings.freeze:
            yield fit._network(freeze), settings.epochs * n_train * (2 - settings.held_out)


def _front_of_resnet(method: Method) -> nn.Sequential:
    """Return a method's encoder.

    Raises:
        BadInput: it is no ResNet's front as torchvision orders it: conv1, bn1, relu, maxpool,
            layer1, ...
    """
    trunks = method.trunks()  # type: ignore[operator]
    encoder = trunks.get(ENCODER)
    if not isinstance(encoder, nn.Sequential) or len(encoder) < STAGES:
        found = f"of type {type(encoder).__name__}" if encoder else f"missing among {list(trunks)}"
        raise BadInput(
            f"classify: the {ENCODER} of {name_of(type(method))} is {found}; the protocol freezes "
            f"the front of a ResNet, an nn.Sequential of {STAGES} modules or more. Measure this "
            "method by the probe `transfer`"
        )
    return encoder


class _Fit:
    """Trains a classifier from a method's encoder."""

    def __init__(
        self,
        settings: ClassifySettings,
        method: Method,
        classes: int,
        seed: int,
        device: str,
        origin: list[str],
    ) -> None:
        self.settings, self.method, self.origin = settings, method, origin
        self.classes, self.seed, self.device = classes, seed, torch.device(device)

    def _network(self, freeze: Freeze) -> nn.Sequential:
        """Return encoder and head; what is frozen has no gradient."""
        s = self.settings
        trunk = copy.deepcopy(_front_of_resnet(self.method)).requires_grad_(True)
        for layer in trunk.modules():
            if isinstance(layer, nn.BatchNorm2d):  # affine always, in the whole encoder
                layer.requires_grad_(False)
        layer1: Any = trunk[4]
        trunk[0].requires_grad_(False)
        if freeze == "conv1-3":
            layer1[0].requires_grad_(False)
        elif freeze in ("conv1-5", "conv1-9"):
            layer1.requires_grad_(False)
            if freeze == "conv1-9":
                self._check_rear(trunk)
                trunk[5].requires_grad_(False)
        elif freeze == "all":
            trunk.requires_grad_(False)
        flat = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()) if s.pool else nn.Flatten()
        size = self.method.data.size
        with torch.inference_mode():
            probe = torch.zeros(1, 3, size, size, device=self.device)
            width = flat(copy.deepcopy(trunk).eval()(probe)).shape[1]
        head = nn.Sequential(
            nn.Dropout(s.dropout),
            nn.Linear(width, s.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(s.hidden, self.classes),
        )
        init_patchvae_(head)
        network = nn.Sequential(trunk, flat, head).to(self.device)
        return network.to(memory_format=torch.channels_last)

    def _check_rear(self, trunk: nn.Sequential) -> None:
        """Raise BadInput unless an encoder has the two blocks that `conv1-9` leaves to train."""
        if len(trunk) < 8:
            raise BadInput(
                f"classify: the encoder has {len(trunk) - 4} stages, and `freeze: conv1-9` trains "
                "the third and the fourth; leave it out of probes.classify.freeze, or measure a "
                "variant with `stride: 32`"
            )

    def curve(
        self,
        freeze: Freeze,
        train: tuple[Split, NDArray[np.int64]],
        test: tuple[Split, NDArray[np.int64]],
        scratch: Path,
    ) -> Curve:
        """Train on rows of one split and return the outcomes on rows of another, by epoch.

        The state is kept in `scratch` once a minute and taken up from there.
        """
        s = self.settings
        torch.manual_seed(self.seed)
        network = self._network(freeze)
        optimizer = torch.optim.SGD(
            [p for p in network.parameters() if p.requires_grad],
            s.learning_rate,
            momentum=0.9,
            weight_decay=s.weight_decay,
        )
        settings = MethodSettings(
            epochs=s.epochs,
            batch_size=min(s.batch_size, len(train[1])),
            flip=self.method.settings.flip,
        )
        schedule = Schedule(len(train[1]), settings, self.seed)
        loader = Loader(train[0], schedule, self.device, "labels", rows=train[1])
        identity = json.dumps(
            [freeze, s.model_dump(mode="json"), self.seed, len(train[1]), *self.origin]
        )
        path = scratch.with_name(f"{scratch.name}.{freeze}.{len(train[1])}.pt")
        state = checkpoint.load(path, identity, self.device)
        ranks: list[NDArray[np.uint8]] = []
        if state:
            network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])
            ranks = list(state["ranks"].cpu().numpy())
        first = len(ranks) * schedule.steps_per_epoch
        saved = time.monotonic()
        label = f"classify, frozen {freeze}, {len(train[1])} images"
        with Progress(label, schedule.steps, "steps", first) as progress:
            for step, batch in enumerate(loader.batches(first), start=first):
                epoch, within = divmod(step, schedule.steps_per_epoch)
                for group in optimizer.param_groups:
                    group["lr"] = s.learning_rate * 0.1 ** (epoch // s.drop_every)
                torch.manual_seed(
                    int(np.random.SeedSequence((self.seed, step)).generate_state(1)[0])
                )
                network.train()
                logits = network(self.method.normalize(batch.images))
                assert batch.labels is not None
                loss = F.cross_entropy(logits, batch.labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                progress.advance()
                if within + 1 == schedule.steps_per_epoch:
                    if not torch.isfinite(loss):
                        raise BadInput(
                            f"{label}: the loss is {loss.item()} in epoch {epoch + 1}; lower "
                            "probes.classify.learning_rate"
                        )
                    ranks.append(self._ranks(network, *test))
                    if time.monotonic() - saved > 60 or epoch + 1 == s.epochs:
                        state = {
                            "network": network.state_dict(),
                            "optimizer": optimizer.state_dict(),
                            "ranks": torch.from_numpy(np.stack(ranks)),
                        }
                        checkpoint.save(path, identity, state)
                        saved = time.monotonic()
        return Curve(np.stack(ranks))

    @torch.inference_mode()
    def _ranks(
        self, network: nn.Sequential, split: Split, rows: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        network.eval()
        labels = np.array(split.annotation("labels"))[rows]
        ranks = []
        for start in range(0, len(rows), 256):
            some = slice(start, start + 256)
            images = torch.from_numpy(split.images[rows[some]]).to(self.device)
            scores = network(self.method.normalize(to_float(images))).cpu().numpy()
            if not np.isfinite(scores).all():
                raise BadInput(
                    f"classify: scores on split '{split.name}' are not finite; lower "
                    "probes.classify.learning_rate"
                )
            ranks.append(label_ranks(scores, labels[some], np.arange(self.classes)))
        return np.concatenate(ranks).clip(max=5).astype(np.uint8)
