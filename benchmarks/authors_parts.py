"""A training step of the authors' own code of unsupervised parts, unmodified.

    git clone https://github.com/subhc/unsup-parts PATH     measured at b148146
    pip install --target LIB einops                         the one package it computes with
    PYTHONPATH=LIB python -m benchmarks unsup_parts --step --reference PATH

No line of that code is here: parts of it are under CC BY-NC-SA 4.0, others name no licence. Its
trainer is given the released settings and one batch after the other, without its loader, so that
colour jitter and CIE-LAB, which our step computes itself, cost it nothing. It needs what this
module puts in its place: packages that only its figures, logs and files want, a module that was
never published, weights that nobody serves any more, and on the CPU calls of `.cuda()`.
"""

import argparse
import importlib
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import torch
import torchvision
import yaml
from torch import Tensor

from benchmarks import common
from partbench.nn.colour import rgb_to_lab

UNUSED = ("cv2", "skimage", "wandb")
"""Packages that its modules import and its training step does not call."""
UNPUBLISHED = "utils.deepcluster_vgg16"
MEAN = (104.00698793, 116.66876762, 122.67891434)
"""Subtracted from images in 0..255."""


def checkout(text: str) -> Path:
    """Return the path of a checkout that can be measured, for argparse.

    Raises:
        ArgumentTypeError: it is no checkout of the authors' code, it was changed, or a package
            that it computes with is missing.
    """
    path = Path(text).resolve()
    if not ((path / ".git").exists() and (path / "trainer_ours.py").is_file()):
        raise argparse.ArgumentTypeError(f"{path} is no git checkout of subhc/unsup-parts")
    if changed := _git(path, "status", "--porcelain"):
        raise argparse.ArgumentTypeError(
            f"{path} is to be measured as published, but differs from its commit: "
            f"{', '.join(changed.splitlines()[:3])}. Check it out anew."
        )
    if not find_spec("einops"):
        raise argparse.ArgumentTypeError(
            "the authors' code computes with einops, which is not here: `pip install --target LIB "
            "einops`, then PYTHONPATH=LIB"
        )
    return path


def _git(path: Path, *arguments: str) -> str:
    command = ("git", "--no-optional-locks", "-C", str(path), *arguments)
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def stubs(path: Path) -> list[str]:
    """Return the modules in whose place stand empty ones."""
    absent = [name for name in UNUSED if find_spec(name) is None]
    published = (path / UNPUBLISHED.replace(".", "/")).with_suffix(".py").exists()
    return absent if published else [*absent, UNPUBLISHED]


def patches(device: str) -> dict[str, Callable[..., Any]]:
    """Return what stands in the place of downloads, and on the CPU of moves to a GPU."""
    vgg19 = torchvision.models.vgg19
    replaced: dict[str, Callable[..., Any]] = {
        "torchvision.models.vgg19": lambda pretrained: vgg19(weights=None),
        # Weights are copied where a name is found: of an empty file none, so that all are random.
        "torch.utils.model_zoo.load_url": lambda url: {},
    }
    if device != "cuda":
        for name in ("torch.Tensor.cuda", "torch.nn.Module.cuda"):
            replaced[name] = lambda self, *_: self
    return replaced


def described(path: Path, device: str) -> dict[str, Any]:
    """Return for the json what was measured."""
    return {
        "commit": _git(path, "rev-parse", "HEAD"),
        "stubbed": stubs(path),
        "patched": list(patches(device)),
        "versions": common.versions(("torch", "torchvision", "einops")),
    }


def settings(path: Path, size: int, batch: int) -> SimpleNamespace:
    """Return the released settings, for images of `size` pixels."""
    released = yaml.safe_load((path / "configs" / "config.yaml").read_text())
    del released["hydra"]
    values = {key: _number(value) for key, value in released.items()}
    return SimpleNamespace(**values | {"input_size": size, "batch_size": batch, "gpu": 0})


def _number(value: Any) -> Any:
    """Return numbers such as 1e-05, which YAML 1.1 takes for text, as numbers."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


class AuthorsTraining:
    """The authors' trainer, which takes its steps. For a process of its own: nothing is undone."""

    def __init__(self, path: Path, size: int, batch: int, device: str) -> None:
        sys.modules.update({name: MagicMock() for name in stubs(path)})
        sys.path.insert(0, str(path))
        sys.dont_write_bytecode = True
        for name, replacement in patches(device).items():
            patch(name, replacement).start()
        trainer = importlib.import_module("trainer_ours")
        assert Path(trainer.__file__ or "").parent == path, trainer.__file__
        self.trainer = trainer.Trainer(settings(path, size, batch))

        def rand() -> Tensor:
            return torch.rand(batch, 3, size, size)

        mean = torch.tensor(MEAN).view(3, 1, 1)
        # As its loader leaves them, on the CPU: two jittered views, VGG's, the CIE-LAB image.
        self.batch = {
            "img_cj1": 255 * rand() - mean,
            "img_cj2": 255 * rand() - mean,
            "img_vgg": 4 * rand() - 2,
            "img_rec": rgb_to_lab(rand()),
            "mask": (torch.rand(batch, 1, size, size) > 0.5).float(),
        }

    def step(self) -> None:
        """Take one step."""
        # Every hundredth step it logs.
        self.trainer.step(self.batch, 1)
