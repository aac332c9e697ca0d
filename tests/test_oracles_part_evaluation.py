"""The authors' evaluation of CUB and DeepFashion, through the code that production calls.

From image files to what is prepared; from logits to labels, counts and numbers; from logits to the
centres that landmarks are regressed from. Shapes come from the vectors.
"""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import test_cub
import torch
from numpy.typing import NDArray
from oracle_vectors import Vectors
from torch import nn

from partbench import method as methods
from partbench.data.prepare import convert
from partbench.data.prepared import Split
from partbench.data.reader import Sample
from partbench.data.whole import cut_border
from partbench.method import DataInfo
from partbench.metrics import cub, parts
from partbench.outputs.part_maps import PartArrays, PartMaps, centres_of_mass, cut_out, locator
from partbench.probes.cub_regression import inputs_of
from partbench.probes.part_counts import Counted, count_landmarks, count_pixels

MEANS = (104.00698793, 116.66876762, 122.67891434)


@pytest.fixture(scope="module")
def vectors(oracles: Path) -> Vectors:
    return Vectors(oracles / "part_metrics.npz")


def numbers_of(vectors: Vectors, start: str, end: str) -> list[int]:
    """The numbers of the cases whose keys are `<start><number><end>`."""
    texts = [k.removeprefix(start).removesuffix(end) for k in vectors if k.startswith(start)]
    return sorted(int(text) for text in texts if text.isdigit())


# ---------------------------------------------------------------------------- files to arrays


def bird(vectors: Vectors, number: int, mask: NDArray[np.bool_]) -> Sample:
    landmarks = vectors["cub_part_locs"][number]
    return Sample(
        "a",
        vectors[f"cub{number}_image"],
        landmarks=landmarks[:, 1:3].astype(np.float32),
        visible=landmarks[:, 3] == 1,
        box=vectors["cub_boxes"][number].astype(np.float32),
        mask=mask,
    )


def prepared(vectors: Vectors, number: int, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """What preparation makes of a bird, without what lies around its image."""
    seg = changes.pop("seg", False)
    key = f"cub{number}_{'seg_grey' if seg else 'mask'}"
    mask = vectors[key] == 255 if seg else vectors[key].astype(bool)
    reader = test_cub.reader(tmp_path, size=int(vectors["cub_resize"]), **changes)
    arrays = convert(reader, bird(vectors, number, mask))
    width, height = arrays["extent"]
    for kind in ("images", "mask"):
        assert not arrays[kind][height:].any()
        assert not arrays[kind][:, width:].any()
        arrays[kind] = arrays[kind][:height, :width]
    return arrays


def window(before: Any, after: Any) -> tuple[slice, ...]:
    starts = [(int(b) - int(a)) // 2 for b, a in zip(before, after, strict=True)]
    return tuple(slice(s, s + int(a)) for s, a in zip(starts, after, strict=True))


@pytest.mark.parametrize(("crop", "key"), [("whole", "full"), ("tight", "crop")])
def test_birds_are_prepared_as_the_authors_do(
    crop: str, key: str, vectors: Vectors, tmp_path: Path
) -> None:
    for number in numbers_of(vectors, "cub", "_image"):
        start = f"cub{number}_{key}_"
        v = {name: vectors[start + name] for name in vectors.below(start)}
        whole = prepared(vectors, number, tmp_path, crop=crop, border="kept")
        image = v["input"].transpose(1, 2, 0) + MEANS
        np.testing.assert_allclose(whole["images"], image, atol=1e-3)
        np.testing.assert_array_equal(whole["mask"], v["mask"][0] > 0)
        seen = v["landmarks"][:, 3] > 0
        np.testing.assert_allclose(
            whole["landmarks"][seen], v["landmarks"][seen, 1:3], rtol=1e-6, atol=1e-5
        )
        cut = prepared(vectors, number, tmp_path, crop=crop)
        inside = window(v["input"].shape[1:], v["cut_size"])
        assert cut["extent"].tolist() == v["cut_size"][::-1].tolist()
        np.testing.assert_allclose(cut["images"], image[inside], atol=1e-3)
        np.testing.assert_array_equal(cut["mask"], v["mask"][0][inside] > 0)
        np.testing.assert_array_equal(cut["visible"], v["landmarks_cut"][:, 3] > 0)
        moved = v["landmarks_cut"][:, 1:3]
        np.testing.assert_allclose(cut["landmarks"], moved, rtol=1e-6, atol=1e-5)
        if key == "full":  # the box is not moved to the reference's crop, where nothing reads it
            np.testing.assert_allclose(whole["box"], v["box"][1:], rtol=1e-5, atol=1e-4)
            np.testing.assert_allclose(cut["box"], v["box_cut"][1:], rtol=1e-5, atol=1e-4)
            true = prepared(vectors, number, tmp_path, crop=crop, border="kept", seg=True)
            expected = vectors[f"cub{number}_fullgt_mask"][0] > 0
            np.testing.assert_array_equal(true["mask"], expected)


@pytest.mark.parametrize(
    ("setting", "value", "kind"),
    [
        ("points", "exact", "landmarks"),
        ("mask_resize", "nearest", "mask"),
        ("border", "kept", "extent"),
    ],
)
def test_the_vectors_tell_the_authors_preparation_from_others(
    setting: str, value: str, kind: str, vectors: Vectors, tmp_path: Path
) -> None:
    differ = []
    for crop in ("whole", "tight"):
        for number in numbers_of(vectors, "cub", "_image"):
            one = prepared(vectors, number, tmp_path, crop=crop)[kind]
            other = prepared(vectors, number, tmp_path, crop=crop, **{setting: value})[kind]
            differ.append(not np.array_equal(one, other))
    assert any(differ)


# ---------------------------------------------------------------------------- logits to numbers


class Says(nn.Module):
    """A network that says what it was given, whatever it sees."""

    def __init__(self, logits: NDArray[Any]) -> None:
        super().__init__()
        self.logits = torch.from_numpy(logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits


def find(name: str, logits: NDArray[Any], size: Any, whole: bool, **changes: Any) -> PartMaps:
    """The parts that a method finds in images [N, 3, *size] by way of these logits [N, K, h, w]."""
    cls: Any = methods.load(name)
    k = logits.shape[1] - (name == "scops")
    settings = methods.resolve(cls, "demo", {"k": k, **changes}, "test")
    method = cls(settings, DataInfo(32, 0)).eval()
    method.network = Says(logits)
    with torch.no_grad():
        return locator(method, whole)(torch.zeros(len(logits), 3, *(int(side) for side in size)))


class Annotated:
    """A split with nothing but annotations."""

    folder = Path("the vectors")

    def __init__(self, **annotations: NDArray[Any]) -> None:
        self.annotations = annotations

    def annotation(self, kind: str) -> NDArray[Any]:
        return self.annotations[kind]

    def __len__(self) -> int:
        return len(next(iter(self.annotations.values())))


def arrays_of(labels: NDArray[Any], foreground: NDArray[Any] | None, k: int) -> PartArrays:
    empty: dict[str, NDArray[np.float64]] = {}
    own = "none" if foreground is None else "own"
    return PartArrays(k, own, labels, foreground, empty, empty, np.ones(len(labels)))  # type: ignore[arg-type]


def percent(measure: Any, tables: NDArray[Any] | None) -> float:
    assert tables is not None
    return 100 * float(measure(tables.sum(0)))


class Evaluated:
    """The six images of the vectors, evaluated with one method."""

    def __init__(self, vectors: Vectors, scops: bool) -> None:
        numbers = numbers_of(vectors, "pt", "_input_size")
        suffix, name = ("_scops", "scops") if scops else ("", "unsup_parts")
        changes = {"inference": "argmax"} if scops else {}
        side = max(int(vectors[f"pt{i}_input_size"].max()) for i in numbers)
        labels = np.zeros((len(numbers), side, side), np.uint8)
        foreground = np.zeros(labels.shape, bool)
        points, shown, inputs, boxes = [], [], [], []
        for row, i in enumerate(numbers):
            landmarks = vectors[f"pt{i}_landmarks"]
            height, width = vectors[f"pt{i}_input_size"].tolist()
            inside, moved, stays, box = cut_border(
                (height, width), landmarks[:, 1:3], landmarks[:, 3] > 0, vectors[f"pt{i}_bbox"][1:]
            )
            size = [side.stop - side.start for side in inside]
            maps = find(name, vectors[f"pt{i}_logits{suffix}"][None], size, True, **changes)
            mask = torch.from_numpy(vectors[f"pt{i}_fgmask"][inside]).float()[None]
            own = mask > 0 if maps.foreground is None else maps.foreground
            labels[row, : size[0], : size[1]] = maps.labels[0]
            foreground[row, : size[0], : size[1]] = own[0]
            centres, mass = centres_of_mass(cut_out(maps, mask))
            of_image = [np.asarray(x, np.float64) for x in (centres, mass, box[None])]
            inputs.append(inputs_of(*of_image, "origin", 1)[0])  # type: ignore[arg-type]
            points.append(moved)
            shown.append(stays)
            boxes.append(box)
        self.inputs = np.array(inputs)
        self.points, self.visible, self.boxes = np.array(points), np.array(shown), np.array(boxes)
        split = cast(Split, Annotated(landmarks=self.points, visible=self.visible))
        k = maps.weights.shape[1]
        predicted = arrays_of(labels, foreground, k)
        self.k = k
        self.counted: Counted = count_landmarks(predicted, split, test_cub.LANDMARKS)


@pytest.mark.parametrize("scops", [False, True])
def test_cub_from_logits_to_numbers(vectors: Vectors, scops: bool) -> None:
    found, prefix = Evaluated(vectors, scops), "pt_scops" if scops else "pt"
    true = vectors[f"{prefix}_gt_labels"]
    for tables, key, n in (
        (found.counted.fg, "pred_labels", found.k),
        (found.counted.full, "pred_labels_bg", found.k + 1),
    ):
        assert tables is not None
        expected = parts.contingency(true, vectors[f"{prefix}_{key}"], tables.shape[1], n)
        np.testing.assert_array_equal(tables.sum(0), expected)
    for name, measure in (("nmi", parts.nmi), ("ari", parts.ari)):
        fg, full = (float(vectors[f"{prefix}_{ruler}{name}"]) for ruler in ("fg_", ""))
        assert percent(measure, found.counted.fg) == pytest.approx(fg, rel=1e-9)
        assert percent(measure, found.counted.full) == pytest.approx(full, rel=1e-9)
    legacy = float(vectors[f"{prefix}_fg_ari_legacy"])
    assert percent(parts.ari, found.counted.full) == pytest.approx(legacy, rel=1e-9)


@pytest.mark.parametrize("scops", [False, True])
def test_cub_from_logits_to_the_regression_s_sides(vectors: Vectors, scops: bool) -> None:
    found, prefix = Evaluated(vectors, scops), "pt_scops" if scops else "pt"
    np.testing.assert_allclose(found.inputs, vectors[f"{prefix}_centres_box"], rtol=1e-4)
    units = cub.box_units(found.points, found.boxes).reshape(len(found.points), -1)
    np.testing.assert_allclose(units, vectors[f"{prefix}_annos_box"], rtol=1e-5, atol=1e-6)
    shown = np.repeat(found.visible, 2, axis=1)
    np.testing.assert_array_equal(shown, vectors[f"{prefix}_masks"] > 0)


def test_centres_count_from_pixel_1_and_absent_parts_are_at_0(vectors: Vectors) -> None:
    maps = torch.from_numpy(vectors["cm_assignment"])
    centres, mass = (x.numpy().astype(np.float64) for x in centres_of_mass(maps))
    unit = np.tile([0.0, 0, 1, 1], (len(maps), 1))
    found = inputs_of(centres, mass, unit, "origin", 1)
    np.testing.assert_allclose(found, vectors["cm_centres_choudhury"], rtol=1e-5)
    np.testing.assert_allclose(16 * found, vectors["cm_centres_huangli"], rtol=1e-5)
    absent = (vectors["cm_assignment"].sum((2, 3)) == 0).all(1)
    assert absent.any()
    assert not found[absent].any()
    np.testing.assert_allclose(
        inputs_of(centres, mass, unit, "origin", 0)[~absent], found[~absent] - 1, rtol=1e-5
    )
    assert np.isnan(inputs_of(centres, mass, unit, "mean", 1)[absent]).all()


def test_the_monitor_s_centres_count_from_0(vectors: Vectors) -> None:
    mask = torch.from_numpy(vectors["mon_mask"]).float()[:, 0]
    size = mask.shape[1:]
    maps = find("unsup_parts", vectors["mon_logits"], size, whole=False)
    centres, mass = centres_of_mass(cut_out(maps, mask))
    assert mass.min() > 1  # the monitor divides by one at least
    np.testing.assert_allclose(centres / size[0], vectors["mon_centres"], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "logits", "whole", "kind"),
    [
        ("unsup_parts", "df_logits", True, "df_full"),
        ("scops", "df_logits_scops", True, "df_scops_full"),
        ("unsup_parts", "df_logits", False, "df_fg"),
    ],
)
def test_deepfashion_from_logits_to_numbers(
    name: str, logits: str, whole: bool, kind: str, vectors: Vectors
) -> None:
    """All of a whole image counts with the background, the foreground of a square without."""
    seg = vectors["df_seg"]
    height, width = seg.shape[1:]
    maps = find(name, vectors[logits], (height, width), whole)
    own = maps.foreground
    foreground = vectors["df_fgmask"] > 0 if own is None else own.numpy()
    k = maps.weights.shape[1]
    predicted = arrays_of(maps.labels.numpy(), foreground, k)
    names = [str(i) for i in range(int(seg.max()) + 1)]
    counted = count_pixels(predicted, cast(Split, Annotated(parts=seg)), names)
    tables = counted.fg if kind == "df_fg" else counted.full
    for measure in ("nmi", "ari"):
        expected = float(vectors[f"{kind}_{measure}"])
        assert percent(getattr(parts, measure), tables) == pytest.approx(expected, rel=1e-9)
