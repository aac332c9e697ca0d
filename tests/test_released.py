"""Weights that the authors released: what their own modules compute with a state, ours computes.

The state itself is a rule of each tensor's name and shape, so that no file of 100 MB is needed;
`reference/README.md` says how the numbers were made.
"""

import hashlib
import os
import pickle
import signal
import subprocess
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tensor
from torch import Tensor
from torch.optim import SGD

from partbench import gather, plugins
from partbench import method as methods
from partbench.config import Config
from partbench.data import archives as table
from partbench.data import catalogue, fetch
from partbench.data.archives import ARCHIVES, Archive
from partbench.errors import BadInput
from partbench.integrity import read_record
from partbench.method import DataInfo, Method, needed_weights, resolve
from partbench.methods.dlp import DLP
from partbench.methods.scops import SCOPS
from partbench.methods.unsup_parts import UnsupParts
from partbench.model import load_model
from partbench.nn.released import COUNTER, Authors, Release, read_released
from partbench.nn.released_dlp import authors as authors_of_dlp
from partbench.released import load_released
from partbench.run import Run, Runtime
from partbench.train import Stopped, train

REFERENCE = Path(__file__).parent / "reference"
CPU = Runtime(device="cpu", threads=1)
RELEASED = [
    (name, variant)
    for name in plugins.names("methods", Method)
    for variant in methods.load(name).RELEASED
]
TOLERANCE = 1e-5


def filled(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return what stands in a tensor of the state, by the rule of `reference/README.md`."""
    if name.endswith(COUNTER):
        return np.zeros(shape, np.int64)
    name = name.replace(".decode.", ".main.")  # one module under two names
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        x = x / np.prod(shape[1:]) ** 0.5
    elif name.endswith("running_var"):
        x = 1 + 0.2 * abs(x)
    elif name.endswith("weight"):
        x = 1 + 0.1 * x
    else:
        x = 0.1 * x
    return x.astype(np.float32)


def state_of(lines: np.ndarray, counters: bool = True) -> dict[str, Tensor]:
    """Return the state that the authors' module wrote: "name dtype sizes" a line."""
    state = {}
    for line in lines:
        name, dtype, sizes = str(line).split(" ")
        if counters or not name.endswith(COUNTER):
            value = torch.from_numpy(filled(name, tuple(map(int, filter(None, sizes.split("x"))))))
            assert str(value.dtype) == f"torch.{dtype}"
            state[name] = value
    return state


def checkpoint(state: dict[str, Tensor]) -> dict[str, Any]:
    """Return what the trainer of unsup_parts saves: the optimiser's state too."""
    weight = torch.zeros(2, requires_grad=True)
    optimizer = SGD([weight], 0.1, momentum=0.9)
    weight.sum().backward()
    optimizer.step()
    return {
        "iter": 60_000,
        "model_state_dict": state,
        "optimizer_state_dict": optimizer.state_dict(),
    }


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PARTBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def place(root: Path, cls: type[Method], variant: str, content: Any, **options: Any) -> Path:
    """Write a file where the released weights of a variant lie."""
    path = root / cls.RELEASED[variant].file
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path, **options)
    return path


def loaded(cls: type[Method], variant: str, size: int) -> Any:
    """Return a method with the released weights, in eval mode and float64."""
    torch.manual_seed(1)
    method = cls(resolve(cls, f"{variant}+released", {}, "test"), DataInfo(size, 0))
    load_released(method)
    return method.double().eval()


def same(actual: Tensor, expected: Any) -> None:
    expected = tensor(expected)
    torch.testing.assert_close(
        actual.double(), expected, rtol=0, atol=TOLERANCE * expected.abs().max().item()
    )


def pixels(array: np.ndarray) -> Tensor:
    """Return images NHWC uint8 as methods get them, but in float64."""
    return torch.from_numpy(array).permute(0, 3, 1, 2).double() / 255


# Outputs of the authors' own modules.


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return dict(np.load(REFERENCE / "released_unsup_parts.npz"))


@pytest.fixture(scope="module")
def parts_state(parts: dict[str, Any]) -> dict[str, Tensor]:
    return state_of(parts["state"])


@pytest.mark.parametrize("variant", ["cub", "deepfashion"])
def test_unsup_parts(
    variant: str, parts: dict[str, Any], parts_state: dict[str, Tensor], root: Path
) -> None:
    place(root, UnsupParts, variant, checkpoint(parts_state))
    method = loaded(UnsupParts, variant, 64)
    images = pixels(parts["image"])
    with torch.no_grad():
        same(method.network(method.normalize(images)), parts["rgb/low"])
        squares, whole = method.part_maps(images), method.whole_part_maps(images)
    for maps, key in ((squares, "rgb/high_aligned"), (whole, "rgb/high_unaligned")):
        high = tensor(parts[key])
        same(maps.weights[..., ::4, ::4], high.softmax(1))
        assert torch.equal(maps.labels[..., ::4, ::4], high.argmax(1))


@pytest.fixture(scope="module")
def scops() -> dict[str, Any]:
    return dict(np.load(REFERENCE / "released_scops.npz"))


def test_scops_of_faces(scops: dict[str, Any], root: Path) -> None:
    """A file of torch 0.4: not a zip archive, and without counters of the batch norms."""
    state = state_of(scops["faces/state"], counters=False)
    place(root, SCOPS, "paper", state, _use_new_zipfile_serialization=False)
    method = loaded(SCOPS, "paper", 64)
    images = pixels(scops["image"])
    with torch.no_grad():
        same(method.network(method.normalize(images)), scops["faces/low"])
        maps = method.part_maps(images)
    high = tensor(scops["faces/high_aligned"])
    same(maps.weights[..., ::4, ::4], high.softmax(1)[:, 1:])
    expected = torch.from_numpy(scops["faces/labels"])  # 0 is the background
    agreed = torch.where(maps.foreground, maps.labels + 1, 0) == expected
    assert agreed.float().mean() > 0.999  # but for ties
    assert not method.basis.any()


def test_scops_of_birds(scops: dict[str, Any], root: Path) -> None:
    """As its published numbers were measured; and with the means of its own authors."""
    place(root, SCOPS, "cub", state_of(scops["birds/state"]))
    method = loaded(SCOPS, "cub", 64)
    images = pixels(scops["image"])
    with torch.no_grad():
        same(method.network(method.normalize(images)), scops["birds/low"])
        maps = method.whole_part_maps(images)
    high = tensor(scops["birds/high_unaligned"])
    same(maps.weights[..., ::4, ::4], high.softmax(1)[:, 1:])
    strongest = torch.where(maps.foreground, maps.labels + 1, 0)[..., ::4, ::4]
    assert torch.equal(strongest, high.argmax(1))
    own = SCOPS(resolve(SCOPS, "cub+released", {"normalize": "caffe_rgb"}, "test"), DataInfo(64, 0))
    own.double().eval().load_state_dict(method.state_dict())
    with torch.no_grad():
        same(own.network(own.normalize(images)), scops["birds_own/low"])


DLP_SIZES = {"k30": 160, "traffic": 128, "clevrer": 128}


@pytest.mark.parametrize("variant", DLP_SIZES)
def test_dlp(variant: str, root: Path) -> None:
    a = dict(np.load(REFERENCE / f"released_dlp_{variant}.npz"))
    place(root, DLP, variant, state_of(a["state"]))
    size = DLP_SIZES[variant]
    method = loaded(DLP, variant, size)
    side = int(a["size"])
    window = np.random.RandomState(2).randint(90, 140, (1, side, side, 3)).astype(np.uint8)
    images = F.pad(pixels(window), [(size - side) // 2] * 4)
    with torch.no_grad():
        points = method.keypoints(images)
        p, noise = method.particles(images)
        decoded = method.decode(p, noise)
    same(points.points.flip(-1), a["mu"])
    assert points.logvar is not None
    same(points.logvar.flip(-1), a["logvar"])
    same(p.appearance, a["features"])
    same(p.appearance_logvar, a["features_logvar"])
    same(decoded.images[..., ::4, ::4], a["rec"])
    if "on" in a:
        same(p.on, a["on"])
        same(decoded.patches[..., ::4, ::4], a["patches"])
    proposed = method.propose(pixels(window)).flip(-1)
    distance = (proposed[:, :, None] - tensor(a["kp_p"])[:, None]).abs().amax(-1)
    assert distance.amin(1).max() < TOLERANCE
    assert distance.amin(2).max() < TOLERANCE


@pytest.mark.parametrize("kind", ["masked", "object"])
def test_dlp_of_the_shared_vectors(kind: str, oracles: Path) -> None:
    """Narrow models with random weights: names of other widths, and float64."""
    a = dict(np.load(oracles / f"dlp_{kind}_model.npz"))
    values = {
        "margin": 0,
        "warps": False,
        "perceptual": "pixels",
        "channels": a["meta/enc_channels"].tolist(),
        "prior_channels": a["meta/prior_channels"].tolist(),
        "objects": kind == "object",
        "k": int(a["meta/K"]),
        "proposals": int(a["meta/Kp"]),
        "patch": int(a["meta/patch"]),
        "features": int(a["meta/d"]),
        "glimpse": float(a["meta/anchor"]),
    }
    method = DLP(DLP.Settings.parse(values, "test"), DataInfo(int(a["meta/size"]), 0)).double()
    names = method.authors().names
    params = {key.removeprefix("param/") for key in a if key.startswith("param/")}
    assert params == {n for n in names.values() if not n.endswith(COUNTER)} | {
        n for n in params if n.startswith("object_dec.decode.")
    }
    turn = method.authors().turn
    state = {
        ours: turn(ours, tensor(a[f"param/{theirs}"]))
        for ours, theirs in names.items()
        if not ours.endswith(COUNTER)
    }
    method.load_state_dict(state, strict=False)
    method.eval()
    with torch.no_grad():
        p, noise = method.particles(tensor(a["x"]))
        images = method.decode(p, noise).images
    same(p.mu.flip(-1), a["eval_deterministic/mu"])
    same(p.appearance, a["eval_deterministic/mu_features"])
    same(images, a["eval_deterministic/rec"])


# A file that is not what it should be.

OWN = {
    "layer.weight": torch.zeros(2, 3),
    "layer.bias": torch.zeros(2),
    f"norm.{COUNTER}": torch.zeros((), dtype=torch.long),
    "basis": torch.ones(4),
}
AUTHORS = Authors(
    {
        "layer.weight": "net.weight",
        "layer.bias": "net.bias",
        f"norm.{COUNTER}": f"bn.{COUNTER}",
    },
    absent=("basis",),
    repeated={"copy.": "net."},
    turn=lambda name, value: value.flip(-1) if name == "layer.weight" else value,
)
GOOD = {"net.weight": torch.arange(6.0).view(2, 3), "net.bias": torch.ones(2)}


def read(path: Path, content: Any, authors: Authors = AUTHORS) -> dict[str, Tensor]:
    torch.save(content, path)
    return read_released(path, authors, OWN, "some")


def test_a_state_is_renamed_turned_and_completed(tmp_path: Path) -> None:
    state = read(tmp_path / "a.pth", GOOD | {"copy.bias": torch.ones(2)})
    assert set(state) == set(OWN)
    assert torch.equal(state["layer.weight"], GOOD["net.weight"].flip(-1))
    assert torch.equal(state["layer.bias"], GOOD["net.bias"])
    assert not state["basis"].any()
    counted = read(tmp_path / "b.pth", GOOD | {f"bn.{COUNTER}": torch.tensor(7)})
    assert counted[f"norm.{COUNTER}"] == 7
    halves = {name: value.half() for name, value in GOOD.items()}
    assert read(tmp_path / "c.pth", halves)["layer.bias"].dtype == torch.float32


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch evil",)


FAULTS: dict[str, tuple[Any, str]] = {
    "missing": ({"net.bias": GOOD["net.bias"]}, r"lacks 'net.weight'; .*data check some"),
    "two missing": ({}, r"lacks 'net.bias' and 1 more; "),
    "unknown": (GOOD | {"net.other": torch.ones(1)}, r"holds 'net.other', which this network"),
    "repeated": (GOOD | {"copy.bias": torch.zeros(2)}, r"'copy.bias' .* not .* 'net.bias'"),
    "repeated alone": (GOOD | {"copy.a": torch.zeros(2)}, r"holds 'copy.a', which this network"),
    "shape": (GOOD | {"net.bias": torch.ones(5)}, r"'net.bias' is 5, but .* is 2; .* settings"),
    "repeated of another kind": (GOOD | {"copy.bias": torch.ones(2, dtype=torch.long)}, "the same"),
    "scalar": (GOOD | {"net.bias": torch.tensor(1.0)}, r"'net.bias' is a scalar, but .* is 2"),
    "not finite": (GOOD | {"net.bias": torch.tensor([1, torch.nan])}, "other than finite numbers"),
    "integers": (GOOD | {"net.bias": torch.ones(2, dtype=torch.long)}, r"torch.int64.*float32"),
    "sparse": (GOOD | {"net.bias": torch.ones(2).to_sparse()}, "not a plain tensor"),
    "optimiser": (checkpoint(GOOD), r"'iter' is a int, not a plain tensor \(a checkpoint"),
    "list": ([1, 2], "holds a list in place of tensors"),
    "object": (Evil(), "does not hold the released weights some"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_another_file_is_refused(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = FAULTS[fault]
    with pytest.raises(BadInput, match=message) as caught:
        read(tmp_path / "some.pth", content)
    assert "some.pth" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "evil").exists()


def test_files_that_are_no_archives_of_torch_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.pth"
    with pytest.raises(BadInput, match=r"some.pth .* is missing; `partbench data check some`"):
        read_released(path, AUTHORS, OWN, "some")
    read(path, GOOD)
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"<!doctype html>", pickle.dumps(GOOD)):
        path.write_bytes(content)
        with pytest.raises(BadInput, match="does not hold the released weights some"):
            read_released(path, AUTHORS, OWN, "some")


def test_a_checkpoint_without_the_network_is_refused(tmp_path: Path) -> None:
    within = AUTHORS._replace(within="model_state_dict")
    assert set(read(tmp_path / "a.pth", checkpoint(GOOD), within)) == set(OWN)
    for content in (GOOD, {"iter": 1}, [1]):
        with pytest.raises(BadInput, match=r"lacks 'model_state_dict', the network's weights; "):
            read(tmp_path / "a.pth", content, within)


def test_names_must_cover_the_network(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        read(tmp_path / "a.pth", GOOD, AUTHORS._replace(absent=()))


# Variants.


@pytest.mark.parametrize(("name", "variant"), RELEASED)
def test_a_released_run_is_a_method_that_is_not_random(name: str, variant: str) -> None:
    cls = methods.load(name)
    settings = resolve(cls, f"{variant}+released", {}, "test")
    release = cls.RELEASED[variant]
    assert (settings.epochs, settings.released) == (0, release.name)
    assert settings == resolve(cls, f"released+{variant}", {}, "test")
    if release == next(iter(cls.RELEASED.values())):
        assert settings == resolve(cls, "released", {}, "test")
    assert methods.is_released(settings)
    assert not methods.is_untrained(cls, settings)
    assert methods.role_of(cls, settings) == "method"
    assert not methods.is_random(cls, settings)
    assert methods.changes(cls, f"{variant}+released", settings) == {}
    assert needed_weights(cls, settings) == (release.name, *cls.frozen_weights(settings))
    trained = resolve(cls, variant, {}, "test")
    assert not methods.is_released(trained)
    assert methods.is_random(cls, trained)
    assert needed_weights(cls, trained) == cls.weights(trained)


def test_needed_weights_of_a_floor() -> None:
    assert needed_weights(UnsupParts, resolve(UnsupParts, "untrained", {}, "test")) == ()


def test_the_table_knows_that_it_is_not_random(tmp_path: Path) -> None:
    config = Config.parse(
        {
            "name": "some",
            "seeds": [0],
            "data": {"toy": {"reader": "toy"}},
            "runs": [
                {
                    "train": "toy",
                    "methods": {"unsup_parts": ["cub", "cub+released"]},
                    "probes": {"parts": ["toy"]},
                }
            ],
        },
        "test",
    )
    rows = gather.gather(config, tmp_path).metrics
    assert dict(zip(rows["variant"], rows["random"], strict=True)) == {
        "cub": True,
        "cub+released": False,
    }


def test_four_methods_have_released_weights() -> None:
    assert {name for name, _ in RELEASED} == {"unsup_parts", "scops", "dlp", "fv_vae"}
    assert resolve(UnsupParts, "released", {}, "test").released == "unsup_parts_cub"
    assert resolve(SCOPS, "released", {}, "test").released == "scops_celeba"
    assert resolve(DLP, "released", {}, "test").released == "dlp_celeba"


@pytest.mark.parametrize(
    ("cls", "variant"),
    [
        (UnsupParts, "pascal+released"),
        (UnsupParts, "k8+released"),
        (UnsupParts, "cub+no_visual+released"),
        (UnsupParts, "released+swav"),
        (UnsupParts, "demo+released"),
        (SCOPS, "k4+released"),
        (SCOPS, "cub+k4+released"),
        (DLP, "k25+released"),
        (DLP, "traffic+mse+released"),
    ],
)
def test_weights_of_other_settings_were_not_released(cls: type[Method], variant: str) -> None:
    with pytest.raises(BadInput, match=r"released no weights for '.*', only for \w+, ") as caught:
        resolve(cls, variant, {}, "runs[0]")
    assert all(name in str(caught.value) for name in cls.RELEASED)
    assert str(caught.value).startswith("runs[0]: ")


def test_a_method_without_released_weights_has_no_such_variant() -> None:
    with pytest.raises(BadInput, match="keynet has no variant 'released'"):
        resolve(methods.load("keynet"), "released", {}, "test")
    with pytest.raises(BadInput, match="did you mean 'released'"):
        resolve(SCOPS, "relesed", {}, "test")


def test_released_weights_are_not_trained_on() -> None:
    with pytest.raises(BadInput, match="measured, not trained on; set `epochs` to 0, not to 5"):
        resolve(SCOPS, "cub+released", {"epochs": 5}, "test")
    settings = resolve(SCOPS, "cub+released", {"released": "scops_bird"}, "test")
    with pytest.raises(BadInput, match="no weights 'scops_bird'; did you mean 'scops_cub'"):
        needed_weights(SCOPS, settings)


# The stages.


def test_a_run_without_a_step(
    parts_state: dict[str, Tensor], tiny: Path, tmp_path: Path, root: Path
) -> None:
    """The same model whatever the seed, with the file's checksum beside it."""
    path = place(root, UnsupParts, "cub", checkpoint(parts_state))
    settings = resolve(UnsupParts, "cub+released", {}, "test")
    for seed in (0, 1):
        run = Run("unsup_parts", "cub+released", "toy", seed)
        train(run, settings, CPU, tiny, tmp_path / str(seed))
    first, second = (load_model(tmp_path / s / "model.pt", "cpu")[1].state_dict() for s in "01")
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert torch.equal(
        first["network.layer5.conv2d_list.2.bias"],
        tensor(filled("layer5.conv2d_list.2.bias", (4,))).float(),
    )
    record = read_record(tmp_path / "0" / "train.json")
    assert (record["steps"], record["role"], record["changes"]) == (0, "method", {})
    assert record["released"] == {
        "name": "unsup_parts_cub",
        "file": "weights/unsup_parts/cub_model_60000.pth",
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert not (tmp_path / "0" / "checkpoint.pt").exists()


def stops_in_finish(self: Method, passes: Any) -> None:
    """A `finish` that gets SIGTERM in its pass over the data."""
    for _ in passes():
        signal.raise_signal(signal.SIGTERM)


def test_a_run_stopped_in_finish_still_names_its_weights(
    parts_state: dict[str, Tensor],
    tiny: Path,
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place(root, UnsupParts, "cub", checkpoint(parts_state))
    settings = resolve(UnsupParts, "cub+released", {}, "test")
    run, out = Run("unsup_parts", "cub+released", "toy", 0), tmp_path / "run"
    train(run, settings, CPU, tiny, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(UnsupParts, "finish", stops_in_finish)
        with pytest.raises(Stopped, match="after the last step"):
            train(run, settings, CPU, tiny, out)
    train(run, settings, CPU, tiny, out)
    whole, resumed = (read_record(f / "train.json")["released"] for f in (tmp_path / "whole", out))
    assert resumed == whole != {}


def test_the_file_is_missing(tiny: Path, tmp_path: Path) -> None:
    settings = resolve(UnsupParts, "cub+released", {}, "test")
    with pytest.raises(BadInput, match="missing; `partbench data check unsup_parts_cub`"):
        train(Run("unsup_parts", "cub+released", "toy", 0), settings, CPU, tiny, tmp_path / "run")
    assert not (tmp_path / "run" / "model.pt").exists()


def test_a_trained_run_names_no_released_weights(tiny: Path, tmp_path: Path) -> None:
    settings = resolve(methods.load("mean_shape"), "paper", {}, "test")
    train(Run("mean_shape", "paper", "toy", 0), settings, CPU, tiny, tmp_path / "run")
    assert read_record(tmp_path / "run" / "train.json")["released"] == {}


# The catalogue.


@pytest.mark.parametrize(("name", "variant"), RELEASED)
def test_the_catalogue_knows_the_file(name: str, variant: str, root: Path) -> None:
    release: Release = methods.load(name).RELEASED[variant]
    (file,) = ARCHIVES[release.name]
    assert list(file.gives.values()) == [release.file]
    assert file.source
    assert release.name in catalogue.listing(root)
    text, ready = catalogue.report([release.name], root)
    assert not ready
    assert file.name in text
    assert str(root / release.file) in text


def blob(content: bytes) -> str:
    done = subprocess.run(
        ["git", "hash-object", "--stdin"], input=content, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def test_a_git_blob_is_a_checksum(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(3 << 20)
    file = Archive(name="w.pth", gives={"": "weights/w.pth"}, git_blob=blob(content), source="it")
    monkeypatch.setitem(table.ARCHIVES, "mine", (file,))
    assert f"`git hash-object` gives {file.git_blob}" in fetch.by_hand(file, root)
    placed = fetch.folder(root) / "w.pth"
    placed.parent.mkdir(parents=True)
    placed.write_bytes(content[:-1])
    with pytest.raises(BadInput, match=f"its git blob is {blob(content[:-1])}, but that of"):
        catalogue.provide_weights("mine", root)
    placed.write_bytes(content)
    assert catalogue.provide_weights("mine", root)["w.pth"] == "ready"
    assert (root / "weights" / "w.pth").read_bytes() == content


def test_a_file_put_in_place_is_verified_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Archive(name="w.pth", gives={"": "weights/w.pth"}, git_blob=blob(b"good"), source="it")
    monkeypatch.setitem(table.ARCHIVES, "mine", (file,))
    path = root / "weights" / "w.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"bad")
    with pytest.raises(BadInput, match=r"w.pth: its git blob is .* delete it, then run"):
        catalogue.provide_weights("mine", root)
    path.write_bytes(b"good")
    catalogue.provide_weights("mine", root)


def test_another_file_without_a_checksum_trains_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest is a parameter of the workflow's rule; a mere copy does not change it."""
    file = Archive(name="w.pth", gives={"": "weights/w.pth"}, urls=("http://x",), source="it")
    monkeypatch.setitem(table.ARCHIVES, "mine", (file,))
    path = root / "weights" / "w.pth"

    def digest(recorded: Mapping[str, str]) -> str:
        return catalogue.digest_of_weights("mine", root, recorded)

    asked = digest({})
    path.parent.mkdir(parents=True)
    path.write_bytes(b"one")  # as if fetched
    recorded = catalogue.provide_weights("mine", root, asked)[catalogue.BY_HAND]
    assert digest(recorded) == asked
    os.utime(path, (1, 1))
    assert digest(recorded) == asked
    path.write_bytes(b"two")
    assert digest(recorded) != asked
    verified = Archive(
        name="w.pth",
        gives={"": "weights/w.pth"},
        urls=("http://x",),
        sha256=hashlib.sha256(b"two").hexdigest(),
    )
    monkeypatch.setitem(table.ARCHIVES, "mine", (verified,))
    assert catalogue.provide_weights("mine", root) == {"w.pth": "ready"}
    assert digest({}) == ""


def test_points_change_places_twice(root: Path) -> None:
    """The exchange of rows and columns is its own inverse, and touches no other weight."""
    settings = resolve(DLP, "k30", {}, "test")
    turn = authors_of_dlp(settings, 128, 16, 2).turn
    shapes = {
        "place.4.weight": (120, 128),
        "place.4.bias": (120,),
        "appearance.0.weight": (256, 122),
        "messages.0.first.weight": (64, 14),
        "messages.3.first.weight": (512, 258),
    }
    for name, shape in shapes.items():
        value = torch.randn(shape)
        assert not torch.equal(turn(name, value), value)
        assert torch.equal(turn(name, turn(name, value)), value)
    for name in ("place.2.weight", "appearance.2.weight", "messages.1.rest.2.weight"):
        value = torch.randn(128, 128)
        assert torch.equal(turn(name, value), value)
