"""The typed settings of numbers: one address each, and the words that tables have always shown."""

import json
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from partbench import plugins, published
from partbench.errors import BadInput
from partbench.probe import Numbers, Probe, Setting
from partbench.probes.classify import ClassifySetting
from partbench.probes.landmarks import LandmarkSetting
from partbench.probes.parts import PartSetting
from partbench.probes.video import VideoSetting

FOREGROUNDS = {
    "": "",
    "own": "own foreground",
    "mask": "ground-truth mask",
    "box": "box as foreground",
    "predicted": "predicted foreground",
}
CROPS = {
    "": "",
    "tight": "box crops",
    "box": "square box crops",
    "whole": "whole images",
    "center": "centre crops",
    "stretch": "stretched images",
    "pad": "padded images",
    "dlp": "crop dlp",
}


def words(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


@st.composite
def landmark_settings(draw: st.DrawFn) -> tuple[LandmarkSetting, str]:
    inputs = draw(st.sampled_from(["", "mu+logvar"]))
    background, intercept = draw(st.booleans()), draw(st.booleans())
    n = draw(st.none() | st.integers(1, 10**6))
    setting = LandmarkSetting(
        inputs=inputs or "mu", background=background, intercept=intercept, annotations=n
    )
    before = words(
        inputs,
        "" if background else "no background",
        f"n={n}" if n else "",
        "intercept" if intercept else "",
    )
    return setting, before


@st.composite
def part_settings(draw: st.DrawFn) -> tuple[PartSetting, str]:
    on = draw(st.sampled_from(["", "CUB-001", "CUB-123", "all", "6 classes", "12 classes"]))
    k = draw(st.integers(1, 255))
    foreground = draw(st.sampled_from(sorted(FOREGROUNDS)))
    crop, bilinear = draw(st.sampled_from(sorted(CROPS))), draw(st.booleans())
    legacy = draw(st.booleans())
    setting = PartSetting(
        on=on,
        k=k,
        foreground=foreground,
        crop=crop,
        labels="bilinear" if bilinear else "",
        legacy=legacy,
    )
    seen = words("bilinear labels" if bilinear else "", CROPS[crop])
    before = words(
        on,
        f"K = {k}",
        FOREGROUNDS[foreground],
        seen,
        "legacy: labels with background" if legacy else "",
    )
    return setting, before


@st.composite
def other_settings(draw: st.DrawFn) -> tuple[Setting, str]:
    step = draw(st.none() | st.integers(1, 1000))
    frozen = draw(st.sampled_from(["conv1", "conv1-3", "conv1-5", "all"]))
    return draw(
        st.sampled_from(
            [
                (Setting(), ""),
                (VideoSetting(step=step), f"step {step}" if step else ""),
                (ClassifySetting(frozen=frozen), f"frozen {frozen}"),
            ]
        )
    )


@given(landmark_settings() | part_settings() | other_settings())
def test_a_setting_reads_as_before_and_comes_back_from_json(case: tuple[Setting, str]) -> None:
    setting, before = case
    assert str(setting) == before
    text = json.dumps(setting.record(), sort_keys=True)
    again = type(setting).parse(json.loads(text), "a cell")
    assert again == setting
    assert json.dumps(again.record(), sort_keys=True) == text


@given(st.lists(landmark_settings(), min_size=2, max_size=5) | st.lists(part_settings()))
def test_different_settings_have_different_words(cases: list[tuple[Setting, str]]) -> None:
    settings = {setting for setting, _ in cases}
    assert len({str(setting) for setting in settings}) == len(settings)


# What the demo's tables and the published rows call the settings: probe, typed, words.
NAMED: list[tuple[str, dict[str, Any], str]] = [
    ("linear", {}, ""),
    ("linear", {"svm": "hinge"}, "svm hinge"),
    ("linear", {"svm": "squared hinge", "c": 1.0}, "svm squared hinge, c 1.0"),
    ("linear", {"svm": "hinge", "c": 100.0}, "svm hinge, c 100.0"),
    ("fusion", {"svm": "hinge", "c": 100.0}, "svm hinge, c 100.0"),
    *(
        ("classify", {"frozen": frozen}, f"frozen {frozen}")
        for frozen in ("conv1", "conv1-3", "conv1-5", "conv1-9", "all")
    ),
    ("reconstruction", {"images": "training"}, "images training"),
    ("video", {}, ""),
    *(("video", {"step": step}, f"step {step}") for step in range(1, 7)),
    ("generation", {"n": 1000}, "n=1000"),
    ("generation", {"n": 10492, "resize": "ttur"}, "n=10492, ttur resize"),
    (
        "generation",
        {"n": 10492, "resize": "ttur", "stretched": True},
        "n=10492, ttur resize, contrast-stretched",
    ),
    ("landmarks", {}, ""),
    ("landmarks", {"intercept": True}, "intercept"),
    ("landmarks", {"background": False}, "no background"),
    ("landmarks", {"background": False, "intercept": True}, "no background, intercept"),
    ("landmarks", {"inputs": "mu+logvar"}, "mu+logvar"),
    ("landmarks", {"inputs": "mu+logvar", "intercept": True}, "mu+logvar, intercept"),
    ("landmarks", {"inputs": "mu+logvar", "background": False}, "mu+logvar, no background"),
    (
        "landmarks",
        {"inputs": "mu+logvar", "background": False, "intercept": True},
        "mu+logvar, no background, intercept",
    ),
    *(
        ("landmarks", {"annotations": n}, f"n={n}")
        for n in (1, 5, 10, 100, 500, 1000, 2000, 5000, 19000)
    ),
    *(
        ("landmarks", {"annotations": n, "intercept": True}, f"n={n}, intercept")
        for n in (1, 5, 10, 100, 500, 1000, 2000)
    ),
    *(("parts", {"k": k}, f"K = {k}") for k in (1, 2, 4, 6, 8)),
    *(
        ("parts", {"k": k, "foreground": foreground}, f"K = {k}, {said}")
        for k in (1, 2, 4, 6, 8)
        for foreground, said in FOREGROUNDS.items()
        if foreground
    ),
    *(
        (
            "parts",
            {"k": 4, "foreground": foreground, "labels": "bilinear"},
            f"K = 4, {FOREGROUNDS[foreground]}, bilinear labels",
        )
        for foreground in ("own", "predicted")
    ),
    *(("parts", {"k": k, "crop": "tight"}, f"K = {k}, box crops") for k in (1, 4)),
    (
        "parts",
        {"k": 4, "crop": "tight", "legacy": True},
        "K = 4, box crops, legacy: labels with background",
    ),
    *(
        (
            "parts",
            {"k": k, "foreground": "own", "crop": "whole"},
            f"K = {k}, own foreground, whole images",
        )
        for k in (1, 4, 8, 16)
    ),
    (
        "parts",
        {"k": 4, "foreground": "predicted", "crop": "whole"},
        "K = 4, predicted foreground, whole images",
    ),
    ("parts", {"on": "all", "k": 4, "crop": "center"}, "all, K = 4, centre crops"),
    *(
        (
            "transfer",
            {"part": part, "network": network} | reading,
            f"{part}, {network}{', running mean' if reading else ''}",
        )
        for part in ("encoder", "discriminator")
        for network in ("frozen", "fine-tuned")
        for reading in ({}, {"reading": "running mean"})
    ),
    *(
        ("parts", {"on": on, "k": k, "crop": "whole"}, f"{on}, K = {k}, whole images")
        for on in ("CUB-001", "CUB-002", "CUB-003", "all")
        for k in (1, 4, 8, 16)
    ),
]


@pytest.mark.parametrize(("probe", "record", "expected"), NAMED)
def test_the_words_of_the_tables(probe: str, record: dict[str, Any], expected: str) -> None:
    cls = plugins.load("probes", probe, Probe).Setting  # type: ignore[type-abstract]
    setting = cls.parse(record, "test")
    assert str(setting) == expected
    assert setting.record() == record


def test_every_published_setting_of_a_probe_has_its_words() -> None:
    named = [(probe, record) for probe, record, _ in NAMED]
    for claim in published.load():
        if claim.has_run:
            assert (claim.probe, claim.setting) in named


@pytest.mark.parametrize(
    ("cls", "record", "message"),
    [
        (LandmarkSetting, {"interceps": True}, "'interceps'; did you mean 'intercept'"),
        (LandmarkSetting, {"annotations": 0}, "'annotations' is 0"),
        (PartSetting, {}, "'k' is {}: Field required"),
        (PartSetting, {"K": 4}, "unknown key 'K'"),
        (PartSetting, {"k": 4, "foreground": "own foreground"}, "'foreground' is 'own foreground'"),
        (PartSetting, {"k": 4, "on": "K = 4"}, "'on' is 'K = 4'"),
        (Setting, {"k": 4}, "unknown key 'k'"),
    ],
)
def test_a_wrong_setting_is_refused(
    cls: type[Setting], record: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message.replace("{", r"\{")):
        cls.parse(record, "a cell")


def test_numbers_are_means_of_the_outcomes_that_count() -> None:
    numbers = Numbers("%", "lower")
    numbers.add("error", Setting(), np.array([1.0, np.nan, 4.0]), interval=(1.5, 3.5))
    numbers.add(
        "psnr",
        VideoSetting(step=2),
        np.array([np.nan, 0.5, np.nan]),
        unit="dB",
        better="higher",
        scale=10,
        interval=(1.0, 2.0),
        note="a note",
        reference=True,
    )
    first, second = numbers.result({"k": 3}).metrics
    assert first == ("error", Setting(), 2.5, "%", "lower", 2, "error", 1.0, "", False)
    assert second[:1] + second[2:] == (
        *("psnr", 5.0, "dB", "higher", 1, "psnr, step 2", 10, "a note", True),
    )
    # An interval of one outcome says nothing.
    assert numbers.intervals == {"error": [1.5, 3.5]}
    table = numbers.result({}).samples
    assert list(table) == ["error", "psnr, step 2"]
    np.testing.assert_array_equal(table["error"], [1.0, np.nan, 4.0])


@pytest.mark.parametrize(
    ("probe", "settings", "groups"),
    [
        ("linear", {}, (("labels",),)),
        ("classify", {}, (("labels",),)),
        ("video", {}, (("frames",),)),
        ("landmarks", {}, (("landmarks",),)),
        ("landmarks", {"normaliser": "image"}, (("landmarks",),)),
        ("landmarks", {"normaliser": "box"}, (("landmarks",), ("box",))),
        ("parts", {}, (("parts", "landmarks"),)),
        ("parts", {"at": "pixels"}, (("parts",),)),
        ("parts", {"at": "landmarks"}, (("landmarks",),)),
    ],
)
def test_annotations_that_a_probe_needs(
    probe: str, settings: dict[str, Any], groups: tuple[tuple[str, ...], ...]
) -> None:
    cls = plugins.load("probes", probe, Probe)  # type: ignore[type-abstract]
    assert cls.annotations(cls.Settings.parse(settings, "test")) == groups
