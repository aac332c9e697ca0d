"""The published numbers: their table, their addresses, and the verdicts on ours."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest

from partbench import config, plugins, published
from partbench.errors import BadInput
from partbench.official_splits import addresses
from partbench.probe import Probe
from partbench.published import Address, CellAddress, Claim, coverage, verdict
from partbench.report.papers import paper_views
from partbench.report.read import Results, RunRecord, read
from partbench.verdict import LABELS, Label

PAPER = Path(__file__).parents[1] / "config" / "paper.yaml"
SHARED = Path(__file__).parents[2] / "shared" / "published.csv"
ADDED = (
    "submission, Table 3",
    "camera-ready, Table 1, for the released checkpoint",
    "project page, for the released weights",
    "tutorial notebook, stored output",
)
"""Origins that the first form of the published numbers lacks."""


def claim(**values: Any) -> Claim:
    given = {
        "paper": "patchvae",
        "origin": "Table 1",
        "name": "PatchVAE",
        "method": "patchvae",
        "variant": "cifar100",
        "train": "cifar100",
        "eval": "cifar100",
        "probe": "classify",
        "metric": "top1",
        "setting": {"frozen": "conv1"},
        "value": 43.0,
        "rounding": 0.05,
        "unit": "%",
        "better": "higher",
        "status": "verified",
    }
    return Claim.parse(given | values, "test")


def ours(**values: Any) -> dict[str, Any]:
    return {
        "values": [42.9, 43.0, 43.1],
        "mean": 43.0,
        "random": True,
        "unit": "%",
        "reduced": False,
        "subset": False,
    } | values


def planned() -> set[CellAddress]:
    """Return the cells of the papers' configuration."""
    return {CellAddress(*address) for address in addresses(config.read(PAPER))}


# ---------------------------------------------------------------------------- the table


def test_a_claim_is_typed_and_stands_once() -> None:
    claims = published.load()
    assert len(claims) == 334
    assert len({published.identity(c) for c in claims}) == len(claims)
    assert {c.status for c in claims} == set(published.STATUSES)
    probes = plugins.names("probes", Probe)  # type: ignore[type-abstract]
    for c in claims:
        if c.has_run:
            setting = plugins.load("probes", c.probe, Probe).Setting  # type: ignore[type-abstract]
            assert setting.parse(c.setting, str(c)).record() == c.setting
        assert c.probe in probes
        assert c.words or not c.setting


@pytest.mark.skipif(not SHARED.exists(), reason="the shared table is not on this machine")
def test_no_value_was_changed() -> None:
    theirs = pd.read_csv(SHARED, dtype=str, keep_default_na=False)
    with published.FILE.open(newline="", encoding="utf-8") as file:
        here = pd.DataFrame(row for row in csv.DictReader(file) if row["origin"] not in ADDED)
    same = ["paper", "split", "value", "sd", "unit", "better", "status"]
    pd.testing.assert_frame_equal(here[same], theirs[same])
    for new, old in zip(here.itertuples(), theirs.itertuples(), strict=True):
        setting = json.loads(new.setting or "{}")
        if old.k and new.probe == "parts":
            # The trivial baselines stand among methods of four parts, and have one point.
            trivial = new.method in ("image_midpoint", "gt_keypoint_mean", "throat_keypoint")
            assert setting["k"] == (1 if trivial else int(old.k))
        elif old.k:
            assert new.variant == f"k{old.k}" or new.name.endswith(f"K = {old.k}")
        # A name of a configuration may be a version of the data set.
        assert (
            new.eval.partition("-")[0]
            == old.dataset.replace("pascal-part/", "pascal_part_")[
                : 3 if old.dataset.startswith("cub-") else None
            ]
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"better": "more"}, "line 3: 'better' is 'more'"),
        ({"status": "seen"}, "line 3: 'status' is 'seen'"),
        ({"reason": "no idea"}, "line 3: 'reason' is 'no idea'"),
        ({"train": ""}, "line 3: .*variant and training data, or a reason"),
        ({"reason": "differs"}, "line 3: .*says in what ours differs"),
        ({"differs": "other masks"}, "line 3: .*says in what ours differs"),
        ({"sd": "1.5"}, "line 3: .*`sd_over` belong together"),
        ({"colour": "red"}, "line 3: unknown key 'colour'"),
        ({}, "a claim stands twice: patchvae, Table 1"),
    ],
)
def test_a_bad_row_is_refused(change: dict[str, str], message: str, tmp_path: Path) -> None:
    row = {
        **{"paper": "patchvae", "origin": "Table 1", "name": "PatchVAE", "method": "patchvae"},
        **{"variant": "cifar100", "train": "cifar100", "eval": "cifar100", "probe": "classify"},
        **{"metric": "top1", "setting": '{"frozen": "conv1"}', "value": "43.0", "sd": ""},
        **{"sd_over": "", "unit": "%", "better": "higher", "status": "verified"},
        **{"reason": "", "differs": ""},
    }
    path = tmp_path / "published.csv"
    pd.DataFrame([row, row | change]).to_csv(path, index=False)
    with pytest.raises(BadInput, match=message):
        published.load(path)


def test_the_last_printed_digit_is_known(tmp_path: Path) -> None:
    values = {c.value: c.rounding for c in published.load()}
    assert values[46.03] == pytest.approx(0.005)
    assert values[27.3] == pytest.approx(0.05)
    assert values[0.0] == pytest.approx(0.5)


# ---------------------------------------------------------------------------- addresses


def test_every_claim_has_a_cell_or_a_reason() -> None:
    cells = planned()
    for c in published.load():
        if c.has_run:
            assert c.cells in cells, c
        else:
            assert c.reason, c


def test_the_headline_numbers_are_judged() -> None:
    """Of the paper on parts, each by its own run, whatever its wording was."""
    judged = {
        (c.eval, c.metric, c.value): c.origin
        for c in published.load()
        if c.method == "unsup_parts" and c.has_run and not c.reason
    }
    for key in (
        ("cub-fg", "fg_nmi", 46.03),
        ("cub-fg", "fg_nmi", 49.1),
        ("cub-fg-predicted", "fg_ari", 21.03),
        ("cub", "ari", 19.58),
        ("cub", "nmi", 43.5),
        ("deepfashion", "fg_nmi", 44.8),
        ("deepfashion-full", "nmi", 68.1),
    ):
        assert key in judged


def test_what_the_authors_released_is_judged_by_the_numbers_printed_for_it() -> None:
    judged = {
        (c.method, c.variant, c.eval, c.metric, c.value) for c in published.load() if c.is_judged
    }
    for key in (
        ("dlp", "k30+released", "mafl", "iod_error", 2.56),
        ("dlp", "k30+released", "mafl", "iod_error", 2.49),
        ("dlp", "shapes+notebook", "shapes", "psnr", 29.704),
        ("scops", "cub+released", "cub-fg", "fg_nmi", 39.1),
        ("unsup_parts", "cub+released", "cub", "landmark_error", 9.2),
        ("unsup_parts", "cub+released", "cub-fg", "fg_nmi", 46.03),
        ("unsup_parts", "deepfashion+released", "deepfashion", "fg_nmi", 44.54),
    ):
        assert key in judged


def results_of(summary: list[dict[str, Any]], tmp_path: Path) -> Results:
    """Return results with these rows in the summary and nothing else."""
    results = read(tmp_path)
    results.config.update({"comparable": True})
    return results._replace(summary=pd.DataFrame(summary))


def labels(results: Results, claims: tuple[Claim, ...]) -> dict[tuple[str, ...], Label]:
    views = [
        row for p in paper_views(results, claims) for table in p["tables"] for row in table["rows"]
    ]
    return {published.identity(view["claim"]): view["verdict"].label for view in views}


def test_a_table_that_hits_every_value_reproduces_every_row(tmp_path: Path) -> None:
    """Whatever is not reproduced then has a reason."""
    claims = tuple(c.model_copy(update={"status": "verified"}) for c in published.load())
    # One number of ours answers several claims, of which it can hit one.
    for c in claims:
        exact = c.address._asdict() | ours(values=[c.value] * 3, mean=c.value, unit=c.unit)
        found = labels(results_of([shown(exact)], tmp_path), (c,))
        expected = "reference only" if not c.has_run else "reproduced"
        expected = "not comparable" if c.has_run and c.reason else expected
        assert found == {published.identity(c): expected}


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the summary with what the page shows beside the verdict."""
    return {
        "setting": "",
        "role": "method",
        "low": row["mean"],
        "high": row["mean"],
        "sd_seeds": 0.0,
        "seeds": len(row["values"]),
        "n": 100,
        "better": "higher",
        "note": "",
    } | row


@pytest.mark.parametrize("field", Address._fields)
def test_a_number_at_another_address_answers_nothing(field: str, tmp_path: Path) -> None:
    c = claim()
    exact = shown(c.address._asdict() | ours())
    assert set(labels(results_of([exact], tmp_path), (c,)).values()) == {"reproduced"}
    other = exact | {field: {"settings": '{"frozen": "all"}'}.get(field, "other")}
    assert set(labels(results_of([other], tmp_path), (c,)).values()) == {"not run"}


def test_known_deviations_stand_beside_the_verdict(tmp_path: Path) -> None:
    c = claim()
    known = {"what": "They mirror.", "source": "their code", "effect": "Small."}
    run = RunRecord(
        "patchvae", "cifar100", "cifar100", "0", {"deviations": [known]}, pd.DataFrame()
    )
    results = results_of([shown(c.address._asdict() | ours())], tmp_path)._replace(runs=[run])
    ((paper,),) = (paper_views(results, (c,)),)
    assert paper["tables"][0]["rows"][0]["deviations"] == [known]


def test_no_note_decides_anything(tmp_path: Path) -> None:
    """Words that once decided stand in the notes of these claims."""
    c = claim(note="protocol not fully recoverable; SD over seeds; submission version")
    assert verdict(c, ours()) == verdict(claim(), ours())
    assert verdict(c, None) == verdict(claim(), None)


# ---------------------------------------------------------------------------- verdicts

THEIRS = {"variant": "", "train": "", "reason": "no method of ours"}
UNFOLLOWED = {"reason": "protocol unknown"}


@pytest.mark.parametrize(
    ("label", "theirs", "our", "options", "reason"),
    [
        ("not run", {}, None, {}, ""),
        ("reference only", THEIRS, None, {}, "no method here is theirs"),
        ("not run", UNFOLLOWED, None, {}, "how it was measured is not known"),
        ("failed", {}, None, {"failure": "BadInput: loss is NaN"}, "loss is NaN"),
        ("not comparable", {}, {}, {"comparable": False}, "reduced one"),
        ("not comparable", {}, {"reduced": True}, {}, "settings differ"),
        ("not comparable", {}, {}, {"changes": {"epochs": (30, 2)}}, "epochs 2 for 30"),
        ("not comparable", {}, {}, {"overrides": {"epochs": 4}}, "probe's settings"),
        ("not comparable", {}, {"subset": True}, {}, "incomplete"),
        ("not comparable", {}, {"unit": ""}, {}, "our unit is none"),
        ("not comparable", {}, {"mean": np.nan}, {}, "not finite"),
        ("not comparable", UNFOLLOWED, {}, {}, "how it was measured is not known"),
        ("not comparable", {"reason": "differs", "differs": "masks"}, {}, {}, "differs: masks"),
        ("not comparable", {"status": "unverified"}, {"reduced": True}, {}, "settings differ"),
        ("unverified reference", {"status": "unverified"}, {}, {}, "not checked"),
        ("reproduced", {}, {}, {}, ""),
        ("reproduced", {}, {}, {"overrides": {"freeze": ["conv1"]}}, ""),
        ("worse", {"value": 53.0}, {}, {}, ""),
        ("better", {"value": 53.0, "better": "lower"}, {}, {}, ""),
        ("better", {"value": 33.0, "status": "reported"}, {}, {}, "third party"),
        ("undecided", {}, {"values": [43.0]}, {}, "One seed"),
        ("reproduced", {}, {"values": [43.0], "random": False}, {}, ""),
    ],
)
def test_every_verdict(
    label: str, theirs: dict[str, Any], our: dict[str, Any] | None, options: Any, reason: str
) -> None:
    found = verdict(claim(**theirs), None if our is None else ours(**our), **options)
    assert found.label == label
    assert label in LABELS
    assert reason in found.reason


def test_labels_are_listed_once() -> None:
    assert Counter(LABELS) == Counter(get_args(Label))


# ---------------------------------------------------------------------------- coverage


def test_the_coverage_counts_every_row_once() -> None:
    claims = published.load()
    text = coverage(claims, planned())
    header, *lines = text.split("\n\n")[0].splitlines()
    assert header.split()[:3] == ["rows", "run", "judged"]
    papers = dict.fromkeys(c.paper for c in claims)
    assert [line.split()[0] for line in lines] == [*papers, "total"]
    numbers = [[0 if w == "-" else int(w) for w in line.split()[1:]] for line in lines]
    for rows, _, *kinds in numbers:
        assert rows == sum(kinds)
    assert numbers[-1] == [sum(column) for column in zip(*numbers[:-1], strict=True)]
    assert numbers[-1][0] == len(claims)
    assert "configuration lacks" not in text


def test_the_coverage_names_what_a_configuration_lacks() -> None:
    text = coverage([claim()], [])
    assert "patchvae/cifar100/cifar100/cifar100/classify (1 row)" in text
