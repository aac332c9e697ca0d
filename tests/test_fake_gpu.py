"""Every method's computations on fake CUDA tensors, which have a device and no memory.

A tensor that was left on the processor is an error, as on a GPU. Reading a value of a tensor is
one, too: there, every step would wait for it. The backward pass and autocast need a real GPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorMode,
    unset_fake_temporarily,
)

from partbench import method as methods
from partbench import plugins
from partbench.data.batch import Batch
from partbench.method import DataInfo, Method
from partbench.methods.vae import VAE
from partbench.nn import perceptual, vit
from partbench.outputs.capability import capabilities, members, offered_by

NAMES = plugins.names("methods", Method)  # type: ignore[type-abstract]
SIZE, BATCH, FRAMES, LANDMARKS, CLASSES = 64, 4, 8, 5, 8


def fake_cuda(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda")


def move(module: nn.Module) -> None:
    """Do to every tensor of a module what `module.to("cuda")` cannot do with fake ones."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    there = fake_cuda(*tensor.shape, dtype=tensor.dtype)
                    if isinstance(tensor, nn.Parameter):
                        there = nn.Parameter(there, requires_grad=tensor.requires_grad)
                    tensors[name] = there


def images(method: Method) -> Tensor:
    frames = [FRAMES] if method.reads == "clips" else []
    return fake_cuda(BATCH, *frames, 3, SIZE, SIZE)


def batch(method: Method) -> Batch:
    return Batch(
        images(method),
        fake_cuda(BATCH, dtype=torch.long),
        fake_cuda(BATCH, LANDMARKS, 3),
        fake_cuda(BATCH, SIZE, SIZE),
        fake_cuda(BATCH, SIZE, SIZE, dtype=torch.uint8),
    )


CALLS: dict[str, Callable[[Any], object]] = {
    "features": lambda method: method.features(images(method)),
    "keypoints": lambda method: method.keypoints(images(method)),
    "frame": lambda method: method.frame(),
    "part_maps": lambda method: method.part_maps(images(method)),
    "whole_part_maps": lambda method: method.whole_part_maps(images(method)),
    "reconstruct": lambda method: method.reconstruct(images(method)),
    "generate": lambda method: method.generate(BATCH),
    "move": lambda method: method.move(images(method), 1, (0.1, 0.2)),
    "trunk": lambda method: method.trunk()(images(method)),
    "predict": lambda method: method.predict(images(method)[:, :2], 3),
    "predict_told": lambda method: method.predict_told(images(method), 2),
    "normalize": lambda method: method.normalize(images(method)),
}


OPTIONAL = {"whole_part_maps"}
"""Members that a method may have beside those of a capability."""
WAITS = {
    "dff": "activations that are not finite are refused",
    "dino_parts": "the number of clusters found decides the shapes",
}
"""Method -> why its capabilities, which no step calls, read a tensor's value."""


@pytest.fixture(autouse=True)
def _where_the_mode_cannot_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    # cuDNN's sampler has no fake counterpart; torch's own has.
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
    # Frozen networks are loaded in the middle of a call, to the processor, then moved.
    for module in (perceptual, vit):
        monkeypatch.setattr(module, "load", loaded_on_fake_gpu(module.load))
    monkeypatch.setattr(nn.Module, "to", lambda module, *_, **__: module)
    # What is drawn on the processor on purpose has values.
    draw = torch.randperm

    def randperm(*arguments: Any, **options: Any) -> Tensor:
        if options.get("device") != "cpu":
            return draw(*arguments, **options)
        with unset_fake_temporarily():
            return draw(*arguments, **options)

    monkeypatch.setattr(torch, "randperm", randperm)


def loaded_on_fake_gpu(load: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    to = nn.Module.to

    def there(*arguments: Any) -> nn.Module:
        with unset_fake_temporarily(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(nn.Module, "to", to)
            network = load(*arguments)
        move(network)
        return network

    return there


@contextmanager
def on_fake_gpu(cls: type[Method]) -> Iterator[Any]:
    variant = "demo" if "demo" in cls.REDUCED else "paper"
    settings = methods.resolve(cls, variant, {}, "test")
    data = DataInfo(SIZE, CLASSES, LANDMARKS, FRAMES if cls.reads == "clips" else 0, "center", "")
    with FakeTensorMode():
        method = cls(settings, data)
        move(method)
        yield method


@pytest.mark.parametrize("name", NAMES)
def test_a_step_stays_on_the_gpu(name: str) -> None:
    cls = methods.load(name)
    if issubclass(cls, methods.StepFreeMethod):
        pytest.skip("it has no steps")
    with on_fake_gpu(cls) as method:
        step(method)


def step(method: Method) -> None:
    """Compute the loss of every phase."""
    for phase in dict.fromkeys(method.phases):
        for term in method.train()(batch(method), phase).values():
            assert term.device.type == "cuda"


@pytest.mark.parametrize("name", NAMES)
def test_capabilities_stay_on_the_gpu(name: str) -> None:
    cls = methods.load(name)
    reads = pytest.raises(DataDependentOutputException) if name in WAITS else nullcontext()
    with on_fake_gpu(cls) as method, torch.no_grad(), reads:
        method.eval()
        for capability in offered_by(cls).values():
            for member in (*members(capability.offer), *OPTIONAL):
                if callable(getattr(cls, member, None)):
                    CALLS[member](method)


def test_every_member_of_every_capability_is_called() -> None:
    every = {name for capability in capabilities().values() for name in members(capability.offer)}
    assert every | OPTIONAL == {*CALLS} | {"protocol"}


class Careless(VAE):
    """A VAE with one of the mistakes that these tests are for."""

    def __init__(self, settings: Any, data: DataInfo, mistake: str = "") -> None:
        super().__init__(settings, data)
        self.mistake = mistake

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        terms = super().forward(batch, phase)
        if self.mistake == "a tensor made on the processor":
            terms["loss"] = (batch.images * torch.rand(batch.images.shape)).mean()
        if self.mistake == "a value read in the loss":
            terms["loss"] = terms["loss"] / max(terms["kl"].item(), 1)
        return terms

    def features(self, images: Tensor) -> Tensor:
        return super().features(images) + torch.ones(())[None]


@pytest.mark.parametrize(
    ("mistake", "error"),
    [
        ("", None),
        ("a tensor made on the processor", r"cuda.*cpu"),
        ("a value read in the loss", "_local_scalar_dense"),
    ],
)
def test_a_method_made_wrong_fails(mistake: str, error: str | None) -> None:
    with on_fake_gpu(Careless) as method:
        method.mistake = mistake
        if error is None:
            step(method)
        else:
            with pytest.raises(Exception, match=error):
                step(method)
        with pytest.raises(Exception, match=r"cuda.*cpu"):
            CALLS["features"](method)
