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

from partbench import config, plugins
from partbench import method as methods
from partbench.data.batch import Batch
from partbench.method import DataInfo, Method
from partbench.methods.patchvae import PatchVAE
from partbench.methods.vae import VAE
from partbench.nn import activations, flow, perceptual, vit
from partbench.outputs.capability import capabilities, members, offered_by
from partbench.probe import Probe

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
    several = [CLASSES] if method.learns_from == "attributes" else []
    return Batch(
        images(method),
        fake_cuda(BATCH, *several, dtype=torch.long),
        fake_cuda(BATCH, LANDMARKS, 3),
        fake_cuda(BATCH, SIZE, SIZE),
        fake_cuda(BATCH, SIZE, SIZE, dtype=torch.uint8),
        fake_cuda(BATCH, 4, 3, SIZE, SIZE),
        fake_cuda(BATCH, 4),
    )


CALLS: dict[str, Callable[[Any], object]] = {
    "features": lambda method: method.features(images(method)),
    "keypoints": lambda method: method.keypoints(images(method)),
    "frame": lambda method: method.frame(),
    "part_maps": lambda method: method.part_maps(images(method)),
    "whole_part_maps": lambda method: method.whole_part_maps(images(method)),
    "reconstruct": lambda method: method.reconstruct(images(method)),
    "generate": lambda method: method.generate(batch(method)),
    "move": lambda method: method.move(images(method), 1, (0.1, 0.2)),
    "trunks": lambda method: [trunk(images(method)) for trunk in method.trunks().values()],
    "descriptors": lambda method: method.descriptors(images(method)),
    "replaced": lambda method: method.replaced(batch(method)),
    "predict": lambda method: method.predict(images(method)[:, :2], 3),
    "predict_told": lambda method: method.predict_told(images(method), 2),
    "normalize": lambda method: method.normalize(images(method)),
}


LOADS: dict[Any, Callable[..., nn.Module]] = {
    module: module.load for module in (activations, perceptual, vit)
}
"""What loads frozen networks."""
OPTIONAL = {"whole_part_maps"}
"""Members that a method may have beside those of a capability."""
WAITS = {
    **dict.fromkeys(
        ("compact_bilinear", "fisher_vectors", "fv_vae", "pooling", "vlad"),
        "activations that are not finite are refused",
    ),
    "dff": "activations that are not finite are refused",
    "dino_parts": "the number of clusters found decides the shapes",
}
"""Method -> why its capabilities, which no step calls, read a tensor's value."""


@pytest.fixture(autouse=True)
def _where_the_mode_cannot_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    # cuDNN's sampler has no fake counterpart; torch's own has.
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
    # Frozen networks are loaded in the middle of a call, to the processor, then moved.
    for module, load in LOADS.items():
        monkeypatch.setattr(module, "load", loaded_on_fake_gpu(load))
    monkeypatch.setattr(nn.Module, "to", lambda module, *_, **__: module)
    # What is drawn on the processor on purpose has values.
    for name in ("randint", "randperm"):
        monkeypatch.setattr(torch, name, with_values(getattr(torch, name)))


def with_values(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a function that draws give real tensors where it is told the processor."""

    def drawn(*arguments: Any, **options: Any) -> Tensor:
        if options.get("device") != "cpu":
            return draw(*arguments, **options)
        with unset_fake_temporarily():
            return draw(*arguments, **options)

    return drawn


def loaded_on_fake_gpu(load: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    to = nn.Module.to

    def there(*arguments: Any) -> nn.Module:
        with unset_fake_temporarily(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(nn.Module, "to", to)
            for module, own in LOADS.items():  # one may call another
                patch.setattr(module, "load", own)
            network = load(*arguments)
        move(network)
        return network

    return there


def made(cls: type[Method]) -> Method:
    """Return a small model of a method."""
    variant = "demo" if "demo" in cls.REDUCED else "paper"
    settings = methods.resolve(cls, variant, {}, "test")
    frames = FRAMES if cls.reads == "clips" else 0
    told = {"attributes": CLASSES, "clusters": CLASSES}
    data = DataInfo(SIZE, CLASSES, LANDMARKS, frames, "center", "", **told)
    return cls(settings, data)


@contextmanager
def on_fake_gpu(cls: type[Method]) -> Iterator[Any]:
    method = made(cls)
    with FakeTensorMode():
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
    assert every | OPTIONAL == {*CALLS} | {"protocol", "trunk_names"}


def probes_on_a_model() -> list[str]:
    """Return the probes that read a model; what they compute with it is traced here."""
    return [
        name for name in plugins.names("probes", Probe) if config.load_probe(name).reads == "model"
    ]


@pytest.mark.parametrize("name", probes_on_a_model())
def test_a_probe_on_a_model_stays_on_the_gpu(name: str) -> None:
    """What it asks the method for is tested above; here, what it trains."""
    probe = config.load_probe(name)
    assert {*probe.needs} <= {*capabilities()}
    with torch.device("meta"):
        networks = [
            network for network, _ in probe.trained(probe.Settings(), made(PatchVAE), BATCH)
        ]
    with on_fake_gpu(PatchVAE) as method:
        for network in networks:
            move(network)
            assert trained_on(method, network).device.type == "cuda"


def trained_on(method: Method, network: nn.Module) -> Tensor:
    """Return the loss of a network that a probe trains, as a classifier."""
    scores = network.train()(method.normalize(images(method))).flatten(1)
    return nn.functional.cross_entropy(scores, fake_cuda(BATCH, dtype=torch.long))


@pytest.mark.parametrize(
    ("mistake", "error"),
    [
        (lambda x: x + torch.ones(x.shape), r"cuda.*cpu"),
        (lambda x: x / max(x.sum().item(), 1), "_local_scalar_dense"),
    ],
)
def test_a_probe_made_wrong_fails(mistake: Callable[[Tensor], Tensor], error: str) -> None:
    class Wrong(nn.Flatten):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(mistake(x))

    with on_fake_gpu(PatchVAE) as method, pytest.raises(Exception, match=error):
        trained_on(method, Wrong())


@pytest.mark.parametrize("name", sorted(flow.FILES))
def test_flow_stays_on_the_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "without_tf32", nullcontext)  # it sets cuDNN, which is off here
    network = flow.untrained(name)
    with FakeTensorMode():
        move(network)
        pairs = fake_cuda(2, 2, 120, 160, 3, dtype=torch.uint8)
        found = flow.of_network(network)(pairs)
        assert found.device.type == "cuda"
        assert flow.turned(flow.pictures(found, 20).movedim(-1, 1) / 255).device.type == "cuda"


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
