import html
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_results import HOSTILE, PART_NAMES, SCRIPT, make

from partbench import probes, published
from partbench.data.sheet import COLOURS
from partbench.integrity import read_record, write_record
from partbench.judgement import (
    BOTH_ALONE,
    METHOD_ALONE,
    METHOD_INCOMPLETE,
    NOTHING_TO_TEST,
    OTHER_ALONE,
    OTHER_FAILED,
    OTHER_INCOMPLETE,
)
from partbench.probes.parts import PartSetting
from partbench.published import Claim
from partbench.report import sections as fragments
from partbench.report import text
from partbench.report.compare import gain_statement, outcome, statements
from partbench.report.failures import Failures
from partbench.report.keypoint_tiles import TILE, keypoint_tile
from partbench.report.page import palette, write
from partbench.report.panels import panel_views
from partbench.report.papers import paper_views
from partbench.report.part_tiles import COLOURS as PART_COLOURS
from partbench.report.part_tiles import label_colours, legend, part_tile
from partbench.report.part_tiles import palette as part_palette
from partbench.report.read import Results, read
from partbench.report.section import Task, View, sections, tasks
from partbench.report.sections import landmarks
from partbench.report.sections.parts import (
    Measured,
    Pictures,
    Subject,
    landmark_table,
    strips,
    subject_of,
)
from partbench.standings import ends


class Outline(HTMLParser):
    """Collects the ids, the links within the page, and every address of a document."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value or "")
            elif key in ("href", "src", "action", "srcset", "poster"):
                kind = self.links if (value or "").startswith("#") else self.addresses
                kind.append(value or "")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("results") / "fake", comparable=True)


@pytest.fixture(scope="module")
def page(results: Path) -> str:
    return render(results, published.load())


def render(results: Path, literature: Sequence[Claim]) -> str:
    """Return the report in one file, which has all that the pages have."""
    out = results.parent / "report" / "index.html"
    write(results, out, literature, single=True)
    assert [path.name for path in out.parent.iterdir()] == ["index.html"]
    return out.read_text()


def outline(page: str) -> Outline:
    found = Outline()
    found.feed(page)
    return found


def words(page: str) -> str:
    """Return a page's text, without scripts, styles and tags."""
    page = re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


def test_it_is_one_self_contained_file(page: str) -> None:
    found = outline(page)
    assert found.addresses
    files = [address for address in found.addresses if not address.startswith("data:")]
    assert {file.split("/")[:2] == ["..", "fake"] for file in files} == {True}
    assert "//" not in re.sub(r"data:image/webp;base64,[\w+/=]+|//[^\n]*\n", "", page)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert len(page) < 5_000_000


def test_ids_are_unique_and_links_lead_somewhere(page: str) -> None:
    found = outline(page)
    assert len(found.ids) == len(set(found.ids))
    assert set(found.links) <= {f"#{name}" for name in found.ids}


def test_ids_stay(results: Path, page: str) -> None:
    assert outline(render(results, published.load())).ids == outline(page).ids
    assert 'id="cell-patchvae-demo-toy-toy-linear-accuracy' in page


def test_hostile_text_is_escaped(page: str) -> None:
    assert SCRIPT not in page
    assert HOSTILE not in page
    assert html.escape(SCRIPT, quote=False) in page
    assert html.escape(HOSTILE, quote=False) in page
    assert outline(page).tags.count("script") == 1


def test_headings_go_down_one_step_at_a_time(page: str) -> None:
    for part in re.findall(r"<article .*?</article>", page, flags=re.DOTALL):
        levels = [int(tag[1]) for tag in outline(part).tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(b - a <= 1 for a, b in pairwise(levels))


def test_what_ran_is_counted(results: Path, page: str) -> None:
    metrics = pd.read_parquet(results / "metrics.parquet")
    cells = metrics.drop_duplicates(["method", "variant", "train", "seed", "eval", "probe"])
    for state, count in cells["status"].value_counts().items():
        assert f"{count} {state}" in words(page)


def test_words_say_what_the_tests_say(page: str) -> None:
    said = words(page)
    size = r" by (\d+\.\d) \[\d+\.\d, \d+\.\d\] \(p (?:< 0\.001|= 0\.0[0-4]\d)\)"
    control = r"random initialisation \(demo\)"
    beats = re.search(rf"PatchVAE \(demo\) beats {control}{size} and raw pixels{size}\.", said)
    assert beats
    assert float(beats[1]) == pytest.approx(18, abs=3)
    assert float(beats[2]) == pytest.approx(25, abs=3)
    gain = r"\(a gain of \S+ \[\S+, \S+\]\)"
    lacks = r"BiGAN \(demo\) lacks seeds that were asked for: no verdict \(so far"
    assert re.search(rf"{lacks} {control} {gain} and raw pixels {gain}\)\.", said)
    assert re.search(
        rf"{re.escape(HOSTILE)} is worse than {control}{size} and raw pixels{size}\.", said
    )
    assert "3 of 6 methods beat every floor" in said
    assert "here the best test epoch adds" in said


def test_failures_show_their_log(page: str) -> None:
    said = words(page)
    assert "BadInput: loss is NaN" in said
    assert "2 of 3" in said
    assert "the method offers no reconstructions" in said


def test_a_recalled_number_decides_nothing(page: str) -> None:
    chips = re.findall(r'<td class="verdict"><span class="chip ([\w-]+)"', page)
    assert chips.count("unverified-reference") == 9
    assert set(chips) == {"unverified-reference", "not-run", "reference-only"}


def verified() -> list[Claim]:
    """Return the published numbers as if all had been checked."""
    return [claim.model_copy(update={"status": "verified"}) for claim in published.load()]


def verdicts(results: Path, literature: Sequence[Claim]) -> list[tuple[str, str]]:
    """Return the verdicts on all but the mere references."""
    papers = paper_views(read(results), literature)
    rows = [row for paper in papers for table in paper["tables"] for row in table["rows"]]
    found = [(row["verdict"].label, row["verdict"].reason) for row in rows]
    return [verdict for verdict in found if verdict[0] != "reference only"]


def test_verdicts_against_verified_numbers(results: Path) -> None:
    found = verdicts(results, verified())
    assert {label for label, _ in found} == {"reproduced", "better", "worse", "not run"}


def test_a_reduced_configuration_never_reproduces(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    config = read_record(results / "config.json")
    write_record(tmp_path / "config.json", config | {"comparable": False})
    found = verdicts(tmp_path, verified())
    assert {label for label, _ in found} == {"not comparable", "not run"}


@pytest.mark.parametrize(
    ("probes", "label"),
    [
        ({"classify": {"epochs": 4}}, "not comparable"),
        ({"classify": {"freeze": ["conv1"]}, "linear": {"cs": [1]}}, "unverified reference"),
    ],
)
def test_a_changed_probe_is_not_comparable(
    results: Path, tmp_path: Path, probes: Any, label: str
) -> None:
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    config = read_record(results / "config.json")
    write_record(tmp_path / "config.json", config | {"probes": probes})
    assert {found for found, _ in verdicts(tmp_path, published.load())} == {label, "not run"}


def test_a_failed_cell_fails_its_published_rows(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    metrics = pd.read_parquet(results / "metrics.parquet")
    summary = pd.read_parquet(results / "summary.parquet")
    gone = (metrics["method"] == "vae") & (metrics["train"] == "cifar100")
    failed = {"metric": "", "setting": "", "status": "failed", "reason": "step 1\nboom\n"}
    metrics[gone] = metrics[gone].assign(value=np.nan, **failed)
    metrics.to_parquet(tmp_path / "metrics.parquet")
    summary = summary[(summary["method"] != "vae") | (summary["train"] != "cifar100")]
    summary.to_parquet(tmp_path / "summary.parquet")
    assert verdicts(tmp_path, published.load()).count(("failed", "boom")) == 3


def task_of(results: Path, probe: str) -> Task:
    """Return a probe's task on toy."""
    found = read(results)
    same = tasks(found, probe, palette(found), published.load())
    return next(task for task in same if task.eval == "toy")


def view_of(results: Path, probe: str) -> View:
    """Return what a probe's section shows of toy."""
    view = sections()[probe].view(task_of(results, probe))
    assert view is not None
    return view


def section(page: str, name: str) -> str:
    """Return one page of a report in one file."""
    return page[page.index(f'<article id="{name}">') :].partition("</article>")[0]


def panels_of(results: Results) -> dict[str, View]:
    """Return the panels by probe."""
    views = panel_views(results, palette(results), sections(), Failures(results))
    return {panel["probe"]: panel for panel in views}


def test_landmark_panels_open_with_two_settings(results: Path) -> None:
    panels = panels_of(read(results))
    panel = panels["landmarks"]
    error = "Error by inter-ocular distance"
    assert [group["title"] for group in panel["first"]] == [
        f"{error}, honest: with intercept",
        f"{error}, papers\N{RIGHT SINGLE QUOTATION MARK} protocol: no intercept",
    ]
    more = [group["title"] for group in panel["more"]]
    assert more[:2] == [f"{error}, no background", f"{error}, no background, intercept"]
    assert {"Error of the mean shape", "Failure rate", "Failure rate, intercept"} <= set(more)
    assert len(panels["classify"]["first"]) == 3


def test_the_numbers_behind_landmarks(results: Path) -> None:
    view = view_of(results, "landmarks")
    rows = {row["name"]: row for row in view["table"]}
    assert list(rows) == [
        *("PatchVAE (demo)", "PatchVAE (lw+demo)", "VAE (demo)", "Random initialisation (demo)")
    ]
    vae, patchvae = rows["VAE (demo)"], rows["PatchVAE (demo)"]
    assert (vae["perceptual"], patchvae["perceptual"]) == ("mobilenet", "")
    assert vae["implicit_intercept"] == pytest.approx(0.31)
    assert np.isnan(patchvae["implicit_intercept"])
    assert (patchvae["k"], patchvae["role"]) == (11, "method")
    summary = pd.read_parquet(results / "summary.parquet").query("method == 'vae'")
    names = ("equivariance", "equivariance_over_staying")
    for metric, setting in (*((name, "") for name in names), ("failure_rate", "intercept")):
        row = summary[(summary["metric"] == metric) & (summary["setting"] == setting)]
        assert vae[metric] == pytest.approx(row["mean"].item())
    areas = [
        json.loads(path.read_text())["details"]["cumulative errors"]["intercept"]["area"]
        for path in results.glob("cells/vae/demo/toy/*/toy/landmarks.json")
    ]
    assert len(areas) == 3
    assert vae["area"] == pytest.approx(np.mean(areas))
    assert view["units"]["implicit_intercept"] == "% inter-ocular"


def test_keypoints_curves_and_faces_are_shown(results: Path, page: str) -> None:
    view = view_of(results, "landmarks")
    assert [one["title"] for one in view["pictures"]] == [
        *("PatchVAE (demo)", "PatchVAE (lw+demo)", "VAE (demo)")
    ]
    assert [one["title"] for one in view["controls"]] == ["Random initialisation (demo)"]
    assert [alt for _, alt in view["pictures"][0]["images"]] == [
        "Test images 1 to 5 with the 10 keypoints of PatchVAE (demo) drawn on",
        "Test images 6 to 8 with the 10 keypoints of PatchVAE (demo) drawn on",
    ]
    assert view["pictures"][2]["note"] == "11 keypoints, seed 0"
    assert [len(charts) for _, charts in view["charts"]] == [2, 2]
    assert view["charts"][0][0] == "honest: with intercept"
    [(_, errors), (_, few)] = view["charts"][0][1]
    for name in ("PatchVAE (demo)", "VAE (demo)", "Random initialisation", "10 %"):
        assert name in words(errors)
    assert "mean shape" in words(few)
    assert "VAE (demo) 105.0 with 1 and 5.0 with 2000" in html.unescape(few)
    means = [
        np.mean([cell.error.value for cell in subject.cells if cell.error])
        for method in task_of(results, "landmarks").methods
        if (subject := landmarks.subject_of(method)) and subject.role == "method"
    ]
    names = [one["title"] for one in view["pictures"]]
    assert [one["title"] for one in view["faces"]] == [names[i] for i in np.argsort(means)]
    for one in view["faces"]:
        best, worst = ([float(error) for _, _, error in row] for _, row in one["rows"])
        assert (len(best), len(worst)) == (8, 8)
        assert max(best) < min(worst)
        assert worst == sorted(worst, reverse=True)
    shown = section(page, "task-landmarks-toy")
    table = shown[shown.index("Keypoints in numbers") :].partition("</table>")[0]
    values = re.findall(r'data-value="([^"]*)"', table)
    assert len(values) == 4 * 6
    assert values.count("nan") == 3  # three methods have no implicit intercept
    assert "nan" not in words(shown).lower().split()


@pytest.mark.parametrize("ground", [0, 255])
def test_a_keypoint_keeps_its_colour_and_stands_out(ground: int) -> None:
    image = np.full((32, 32, 3), ground, np.uint8)
    points = np.array([[8.0, 8.0], [24.0, 8.0], [np.nan, 3.0], [8.0, 24.0], [200.0, -90.0]])
    scale = TILE / 32

    def colour(tile: np.ndarray, x: float, y: float) -> list[int]:
        return tile[int((y + 0.5) * scale), int((x + 0.5) * scale)].tolist()

    for places in (points, points[:, ::-1]):
        tile = np.asarray(keypoint_tile(image, places))
        assert tile.shape == (TILE, TILE, 3)
        for number in (0, 1, 3):
            wanted = list(bytes.fromhex(COLOURS[number][1:]))
            np.testing.assert_allclose(colour(tile, *places[number]), wanted, atol=3)
        around = tile[30:56, 30:56].astype(int).sum(-1)
        if ground:
            assert around.min() < 120
        assert colour(tile, 16, 16) == [ground] * 3


def test_fifty_keypoints_look_different() -> None:
    image = np.full((32, 32, 3), 128, np.uint8)
    away = np.full((50, 2), -99.0)
    tiles = []
    for number in range(50):
        points = away.copy()
        points[number] = 15.5
        tiles.append(np.asarray(keypoint_tile(image, points)).tobytes())
    assert len(set(tiles)) == 50


def drop_images(results: Path) -> None:
    (results / "data" / "toy" / "test.images.npy").unlink()


def drop_pictures(results: Path) -> None:
    for path in results.rglob("*.pictures.npz"):
        path.unlink()


def drop_cells(results: Path) -> None:
    for path in results.rglob("landmarks.json"):
        write_record(path, {"metrics": [], "details": {"k": "many"}})


def drop_curves(results: Path) -> None:
    for path in results.rglob("landmarks.json"):
        record = read_record(path)
        for key in ("cumulative errors", "few-shot", "faces"):
            del record["details"][key]
        write_record(path, record)


@pytest.mark.parametrize(
    ("damage", "gone"),
    [
        (drop_images, {"faces"}),
        (drop_pictures, {"pictures", "controls"}),
        (drop_cells, {"charts", "faces", "table"}),
        (drop_curves, {"charts", "faces"}),
    ],
)
def test_what_is_missing_of_keypoints_is_left_out(
    damage: Callable[[Path], None], gone: set[str], tmp_path: Path
) -> None:
    results = make(tmp_path / "fake", seeds=1)
    damage(results)
    view = view_of(results, "landmarks")
    parts = ("pictures", "controls", "charts", "faces", "table")
    assert {part for part in parts if not view[part]} == gone


def test_images_out_of_reach_are_left_out(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    np.save(tmp_path / "data" / "toy" / "test.images.npy", np.zeros((3, 32, 32, 3), np.uint8))
    view = view_of(tmp_path, "landmarks")
    assert [[len(row) for _, row in one["rows"]] for one in view["faces"]] == [[3]] * 3


def test_numbers_of_different_k_never_share_a_table(results: Path, page: str) -> None:
    view = view_of(results, "parts")
    assert [table["k"] for table in view["tables"]] == [4, 6]
    four, six = view["tables"]
    names = ["PatchVAE (demo)", "VAE (demo)", "Random initialisation (demo)"]
    assert [row["name"] for row in four["rows"]] == names
    assert [row["name"] for row in six["rows"]] == ["BiGAN (demo)"]
    assert four["oracle"][:3] == [92, 86, 64]
    assert four["on"] == "all pixels of 60 test images"
    assert six["rows"][0]["foreground"] == "own foreground"
    assert four["groups"][1] == ["torso", "tail"]
    summary = pd.read_parquet(results / "summary.parquet").query("method == 'patchvae'")
    summary = summary[summary["probe"] == "parts"].set_index(["metric", "setting"])
    values = four["rows"][0]["values"]
    for value, (metric, setting) in zip(
        values,
        [
            *((metric, "K = 4") for metric in ("fg_nmi", "fg_ari", "fg_mean_iou")),
            *((metric, "K = 4, ground-truth mask") for metric in ("nmi", "ari")),
            *((metric, "K = 4") for metric in ("part_consistency", "equivariance_agreement")),
        ],
        strict=True,
    ):
        assert value["mean"] == summary.loc[(metric, setting), "mean"]
        assert f'href="#{value["id"]}"' in section(page, "task-parts-toy")
    charts = [html.unescape(svg) for _, svg in four["charts"]]
    assert len(charts) == 1
    assert all("Oracle, K = 4: " in chart for chart in charts)
    assert not any("BiGAN" in chart for chart in charts)
    assert "nan" not in words(section(page, "task-parts-toy")).lower().split()


def test_settings_of_parts_decide_by_their_fields(results: Path) -> None:
    task = task_of(results, "parts")
    numbers = task.numbers
    old = numbers[(numbers["metric"] == "fg_ari") & (numbers["method"] == "patchvae")]
    old = old.assign(mean=1.0, settings=[PartSetting(k=4, legacy=True)])
    cropped = [setting.model_copy(update={"crop": "tight"}) for setting in numbers["settings"]]
    both = pd.concat([numbers.assign(settings=cropped), old])
    view = sections()["parts"].view(task._replace(numbers=both))
    assert view is not None
    four = view["tables"][0]
    assert four["on"] == "all pixels of 60 test images, box crops"
    assert four["rows"][0]["values"][1]["mean"] > 10
    assert all(row["mean"] != 1 for table in view["tables"] for row in table["rows"][0]["values"])


def test_the_same_images_through_every_method(results: Path) -> None:
    view = view_of(results, "parts")
    names = ["PatchVAE (demo)", "VAE (demo)", "BiGAN (demo)", "Random initialisation (demo)"]
    assert [strip["title"] for strip in view["strips"]] == ["Images", "Truth", *names]
    assert [name for _, name in view["strips"][1]["legend"]] == list(PART_NAMES)
    assert [name for name, _, _ in view["confusions"]] == names
    for (_, _, svg), parts in zip(view["confusions"], (4, 4, 6, 4), strict=True):
        assert "head mostly part" in svg
        assert "background mostly background" in svg
        assert svg.count("<rect") >= parts * 5


def measured(table: Any, labels: list[str], at: str = "landmarks") -> Measured:
    details = {"k": len(table[0]), "at": at, "foreground": "", "labels": labels, "table": table}
    return Measured.model_validate({"details": details | {"background column": False}})


def test_parts_of_all_methods_have_the_colours_of_their_labels() -> None:
    one = measured([[9, 0, 1], [0, 0, 8], [0, 0, 0]], ["head", "legs", "tail"])
    other = measured([[0, 1, 9], [7, 0, 1], [0, 0, 0]], ["head", "legs", "tail"])
    first, second = (
        part_palette(3, cell.table, label_colours(cell.table.sum(1))) for cell in (one, other)
    )
    assert first[[0, 2]].tolist() == second[[2, 0]].tolist() == [0, 1]
    for numbers in (first, second, part_palette(16)):
        assert len(set(numbers.tolist())) == len(numbers)
    assert len(part_palette(40)) == 40


def test_of_many_labels_the_rare_ones_share_a_colour_and_no_two_parts_do() -> None:
    table = np.zeros((58, 4), int)
    table[[3, 57, 20, 8], [0, 1, 2, 3]] = [4, 3, 2, 1]
    names = [str(i) for i in range(58)]
    cell = measured(table.tolist(), names)
    assert part_palette(4, cell.table, label_colours(cell.table.sum(1))).tolist() == [0, 1, 2, 3]
    assert legend(cell.table.sum(1), names) == [
        (PART_COLOURS[i], n) for n, i in (("3", 0), ("8", 3), ("20", 2), ("57", 1))
    ]
    table[:, 0] += 100 - np.arange(58)
    table[40, 1] += 500  # two parts match two labels that are rare
    table[41:, 0] = 0
    table[50, 2] = table[51, 3] = 5
    cell = measured(table.tolist(), names)
    numbers = part_palette(4, cell.table, label_colours(cell.table.sum(1)))
    assert len(set(numbers.tolist())) == 4
    assert [name for _, name in legend(cell.table.sum(1), names)][-1] == "all others"
    assert (
        len(legend(cell.table.sum(1), names))
        == len({colour for colour, _ in legend(cell.table.sum(1), names)})
        == len(PART_COLOURS)
    )


def test_without_labelled_pixels_parts_have_the_colours_of_the_first_methods_parts() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    parts = rng.integers(0, 3, (3, 8, 8)).astype(np.uint8)
    parts[:, 0] = 255
    renamed = np.where(parts == 255, 255, (parts + 1) % 3).astype(np.uint8)
    shown = [
        Subject(name, "method", 0, Pictures.read(arrays), "0", None, None)
        for name, arrays in (
            ("one", {"originals": images, "parts": parts}),
            ("other", {"originals": images, "parts": renamed}),
        )
    ]
    [_, one, other] = strips(shown, None)
    assert one["uri"] == other["uri"]


def test_pictures_are_coloured_by_a_cell_of_their_own_seed(tmp_path: Path) -> None:
    results = make(tmp_path / "fake", seeds=2)
    for path in results.glob("cells/vae/*/toy/0/toy/parts.json"):
        path.unlink()
    methods = task_of(results, "parts").methods
    found = {s.name: s for method in methods if (s := subject_of(method))}
    assert found["VAE (demo)"].cell is not None
    assert found["VAE (demo)"].pictured is None
    assert found["PatchVAE (demo)"].pictured is found["PatchVAE (demo)"].cell is not None


def test_the_background_is_grey_and_parts_are_not() -> None:
    image = np.full((8, 8, 3), 200, np.uint8)
    image[:, :, 0] = 20
    labels = np.full((8, 8), 255)
    labels[:, :4] = 1
    colours = np.array([[0, 0, 0], [255, 0, 0]], np.uint8)
    tile = np.asarray(part_tile(image, labels, colours))
    left, right = tile[60, 10], tile[60, 110]
    assert left[0] > 150
    assert left[1] == left[2] == 0
    assert len(set(right.tolist())) == 1


def test_published_landmark_errors_stand_below_ours(results: Path, page: str) -> None:
    numbers = task_of(results, "parts").numbers
    view = landmark_table(numbers, published.load(), "cub")
    assert view is not None
    assert view["columns"] == ["CUB-001", "all"]
    assert [(row["name"], row["k"]) for row in view["rows"]] == [
        *(("PatchVAE (demo)", 4), ("BiGAN (demo)", 6), ("Random initialisation (demo)", 4))
    ]
    assert view["constant"] == {"CUB-001": 27, "all": 23}
    theirs = {(row["name"], row["k"]): row for row in view["published"]}
    paper = theirs["Choudhury et al.", 4]
    assert {name: value for name, (_, value) in paper["values"].items()} == {
        **{"CUB-001": 11.3, "CUB-002": 15.0, "CUB-003": 10.6, "all": 9.2}
    }
    assert paper["status"] == "verified"
    assert theirs["PDiscoNet, K = 8", 8]["status"] == "unverified"
    assert all(f'id="{a}"' in page for row in theirs.values() for a, _ in row["values"].values())
    none = landmark_table(numbers, published.load(), "toy")
    assert none is not None
    assert none["published"] == []


def damage_parts(results: Path) -> None:
    for path in results.rglob("parts.json"):
        write_record(path, {"details": {"k": 4}})


def other_pictures(results: Path) -> None:
    for path in results.rglob("*.pictures.npz"):
        arrays = dict(np.load(path))
        if "parts" in arrays:
            np.savez(path, **(arrays | {"parts": arrays["parts"][:, :3]}))


@pytest.mark.parametrize(
    ("damage", "gone"),
    [
        (drop_pictures, {"strips"}),
        (other_pictures, {"strips"}),
        (damage_parts, {"confusions"}),
        (drop_images, set()),
    ],
)
def test_what_is_missing_of_parts_is_left_out(
    damage: Callable[[Path], None], gone: set[str], tmp_path: Path
) -> None:
    results = make(tmp_path / "fake", seeds=1)
    damage(results)
    view = view_of(results, "parts")
    shown = ("tables", "strips", "confusions", "landmarks")
    assert {part for part in shown if not view[part]} == gone
    if damage is damage_parts:
        assert [strip["title"] for strip in view["strips"]][:2] == ["Images", "PatchVAE (demo)"]


SHADOWS = """
from partbench.probe import Probe, Setting


class ShadowSetting(Setting):
    hour: int = 0


class Shadows(Probe):
    Setting = ShadowSetting
"""
SHADOW_SECTION = """
from partbench.probes.shadows import ShadowSetting
from partbench.report.section import Section


class ShadowSection(Section):
    title = "Cast shadows"
    order = 35
    headline = ("length",)
    labels = {"length": "Length of shadows"}
    headline_settings = {ShadowSetting(hour=12): "at noon"}

    def view(self, task):
        cells = [cell for method in task.methods for cell in method.cells]
        hours = [setting.hour for setting in task.numbers["settings"]]
        shown = {"eval": task.eval, "hours": hours}
        return shown | {"cell": cells[0].record["details"]} if cells else None

    def note(self, numbers):
        return {"n": len(numbers)}
"""
SHADOW_FRAGMENT = """
{% macro intro() %}<p>Shadows move.</p>{% endmacro %}
{% macro task(view) %}<p>{{ view.eval }} at {{ view.hours | join(" and ") }}: {{ view.cell }}</p>
{% endmacro %}
{% macro note(view) %}The sun decides {{ view.n }} numbers.{% endmacro %}
"""


@pytest.fixture
def shadows(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Results with a probe whose code lies in three files outside the package."""
    for name, base, code in (
        ("shadows.py", probes, SHADOWS),
        ("shadows.py", fragments, SHADOW_SECTION),
        ("shadows.html", fragments, SHADOW_FRAGMENT),
    ):
        folder = tmp_path / base.__name__
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(code)
        monkeypatch.setattr(base, "__path__", [*base.__path__, str(folder)])
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    cell = folder / "cells" / "vae" / "demo" / "toy" / "0" / "toy" / "shadows.json"
    write_record(cell, {"details": SCRIPT})
    summary = pd.read_parquet(folder / "summary.parquet")
    mine = summary[summary["method"] == "vae"].head(3).assign(probe="shadows", metric="length")
    mine = mine.assign(setting=["hour 9", "hour 12", ""], variant="demo", train="toy", eval="toy")
    mine = mine.assign(settings=['{"hour": 9}', '{"hour": 12}', '{"minute": 1}'])
    pd.concat([summary, mine]).to_parquet(folder / "summary.parquet")
    yield folder
    for module in ("partbench.probes.shadows", "partbench.report.sections.shadows"):
        sys.modules.pop(module, None)


def test_a_section_of_a_new_probe_is_found_by_its_name(shadows: Path) -> None:
    page = render(shadows, published.load())
    links = outline(section(page, "answers")).links
    order = [links.index(f"#task-{probe}-toy") for probe in ("landmarks", "shadows", "parts")]
    assert order == sorted(order)
    said = words(section(page, "task-shadows-toy"))
    assert f"Cast shadows Shadows move. toy at 9 and 12: {SCRIPT}" in said  # and not of minute 1
    assert "The sun decides 2 numbers." in said
    shadow = panels_of(read(shadows))["shadows"]
    assert shadow["title"] == "Shadows on toy"
    assert [group["title"] for group in shadow["first"]] == ["Length of shadows, at noon"]
    assert len(shadow["more"]) == 2


def test_a_probe_without_a_section_has_its_charts_and_tables(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    for name in ("metrics", "summary"):
        table = pd.read_parquet(results / f"{name}.parquet")
        table.replace({"probe": {"reconstruction": "echo"}}).to_parquet(
            tmp_path / f"{name}.parquet"
        )
    assert "echo" not in sections()
    assert [group["title"] for group in panels_of(read(tmp_path))["echo"]["first"]] == ["Psnr"]
    page = render(tmp_path, published.load())
    assert "PatchVAE (lw+demo)" in words(section(page, "task-echo-toy"))
    assert "Echo on toy" in words(section(page, "answers"))


def test_numbers_of_another_version_are_left_out_of_sections(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    summary = pd.read_parquet(results / "summary.parquet").drop(columns="settings")
    summary.to_parquet(tmp_path / "summary.parquet")
    assert task_of(results, "parts").numbers["settings"].map(lambda s: s.k).isin([4, 6]).all()
    assert task_of(tmp_path, "parts").numbers.empty
    assert view_of(tmp_path, "parts")["tables"] == []
    assert "Consistency of parts" in words(render(tmp_path, published.load()))


def nothing(results: Path) -> None:
    shutil.rmtree(results)


def no_tables(results: Path) -> None:
    (results / "metrics.parquet").unlink()
    (results / "summary.parquet").unlink()


def no_runs(results: Path) -> None:
    for name in ("runs", "cells", "data"):
        shutil.rmtree(results / name)


def all_failed(results: Path) -> None:
    for name in ("runs", "cells", "data"):
        shutil.rmtree(results / name)
    metrics = pd.read_parquet(results / "metrics.parquet")
    metrics.assign(status="failed", metric="", value=np.nan).to_parquet(results / "metrics.parquet")
    pd.read_parquet(results / "summary.parquet").head(0).to_parquet(results / "summary.parquet")


def half_written(results: Path) -> None:
    for path in results.rglob("*.json"):
        path.write_text("{")
    for pattern in ("*.npz", "*.parquet"):
        for path in results.rglob(pattern):
            path.write_bytes(b"PK\x03\x04")


@pytest.mark.parametrize("damage", [nothing, no_tables, no_runs, all_failed, half_written])
def test_a_page_comes_from_whatever_is_there(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    results = make(tmp_path / "fake", seeds=1)
    damage(results)
    page = render(results, published.load())
    found = outline(page)
    assert set(found.links) <= {f"#{name}" for name in found.ids}
    assert f"{len(published.load())} published numbers" in words(page)
    assert "nan" not in words(page).split()


def test_nothing_is_left_of_a_page_that_could_not_be_made(tmp_path: Path) -> None:
    out = tmp_path / "report" / "index.html"
    out.parent.mkdir()
    out.write_text("as it was")
    with pytest.raises(AttributeError):
        write(tmp_path / "nothing", out, [None])  # type: ignore[list-item]
    assert out.read_text() == "as it was"
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize(
    ("difference", "p", "better", "said"),
    [
        (-1.0, 0.01, "higher", "worse"),
        (1.0, 0.01, "higher", "better"),
        (-1.0, 0.01, "lower", "better"),
        (1.0, 0.01, "lower", "worse"),
        (5.0, 0.05, "higher", "same"),
        (5.0, 0.049, "higher", "better"),
    ],
)
def test_only_corrected_p_values_tell_two_apart(
    difference: float, p: float, better: str, said: str
) -> None:
    row = {"difference": difference, "p": 1e-9, "p_holm": p, "reason": ""}
    assert outcome(row, better) == said
    assert outcome(row | {"reason": OTHER_ALONE, "p_holm": np.nan}, better) == "untested"


def against(control: str, variant: str = "paper", **values: Any) -> dict[str, Any]:
    """Return a comparison of VAE with a control."""
    pair = {"method": "vae", "variant": "paper", "control": control, "control_variant": variant}
    pair["relation"] = "self" if variant == "untrained" else "floor"
    numbers = {"difference": 2.0, "low": 1.0, "high": 3.0, "p": 0.001, "p_holm": 0.012}
    return pair | numbers | {"reason": ""} | values


NONE = {"difference": np.nan, "low": np.nan, "high": np.nan, "p_holm": np.nan}
NO_P = {"p_holm": np.nan}
SAME = {"low": -1.0, "p_holm": 0.3}
MINUS = "\N{MINUS SIGN}"


@pytest.mark.parametrize(
    ("better", "first", "second", "state", "said"),
    [
        (
            *("higher", {}, {"p_holm": 1e-9}, "beats"),
            "beats raw pixels by 2.0 [1.0, 3.0] (p = 0.012) and mean shape by 2.0 [1.0, 3.0] "
            "(p < 0.001).",
        ),
        (
            *("lower", {}, {"difference": -2.0, "low": -3.0, "high": -1.0}, "mixed"),
            "is worse than raw pixels by 2.0 [1.0, 3.0] (p = 0.012); beats mean shape by 2.0 "
            "[1.0, 3.0] (p = 0.012).",
        ),
        (
            *("lower", SAME, SAME, "mixed"),
            f"does not beat raw pixels (a gain of {MINUS}2.0 [{MINUS}3.0, 1.0], p = 0.30) and mean "
            f"shape (a gain of {MINUS}2.0 [{MINUS}3.0, 1.0], p = 0.30).",
        ),
        (
            *("higher", {}, NONE | {"reason": OTHER_ALONE}, "unknown"),
            "beats raw pixels by 2.0 [1.0, 3.0] (p = 0.012); has no verdict against mean shape "
            "(one seed).",
        ),
        (
            *("higher", SAME, NONE | {"reason": NOTHING_TO_TEST}, "mixed"),
            f"does not beat raw pixels (a gain of 2.0 [{MINUS}1.0, 3.0], p = 0.30); has no "
            "verdict against mean shape (nothing varies that could be tested).",
        ),
        (
            *("higher", NONE | {"reason": METHOD_ALONE}, NONE | {"reason": BOTH_ALONE}, "unknown"),
            "has one seed: no verdict.",
        ),
        (
            *("lower", NO_P | {"reason": METHOD_INCOMPLETE}, NO_P | {"reason": BOTH_ALONE}),
            "unknown",
            f"lacks seeds that were asked for: no verdict (so far raw pixels (a gain of {MINUS}2.0 "
            f"[{MINUS}3.0, {MINUS}1.0]) and mean shape (a gain of {MINUS}2.0 [{MINUS}3.0, "
            f"{MINUS}1.0])).",
        ),
        (
            *("higher", {}, NONE | {"reason": OTHER_FAILED}, "unknown"),
            "beats raw pixels by 2.0 [1.0, 3.0] (p = 0.012); has no verdict against mean shape "
            "(it has no number).",
        ),
        (
            *("higher", {}, NO_P | {"reason": OTHER_INCOMPLETE}, "unknown"),
            "beats raw pixels by 2.0 [1.0, 3.0] (p = 0.012); has no verdict against mean shape "
            "(a gain of 2.0 [1.0, 3.0]) (seeds are missing).",
        ),
        (
            *("higher", {}, {"control": "another"}, "unknown"),
            "beats raw pixels by 2.0 [1.0, 3.0] (p = 0.012); has no verdict against mean shape "
            "(the results hold no comparison).",
        ),
    ],
)
def test_statements(
    better: str, first: dict[str, Any], second: dict[str, Any], state: str, said: str
) -> None:
    row = {"method": "vae", "variant": "paper", "role": "method", "better": better, "unit": "%"}
    floors = [row | {"method": name, "role": "floor"} for name in ("raw_pixels", "mean_shape")]
    group = pd.DataFrame([row, *floors]).assign(mean=[3.0, 1.0, 1.0])
    compared = [against("raw_pixels", **first), against(**({"control": "mean_shape"} | second))]
    [statement] = statements(group, pd.DataFrame(compared))
    assert (statement.state, statement.method, statement.text) == (state, "VAE", said)


def test_a_floor_without_a_number_is_named_all_the_same() -> None:
    row = {"method": "vae", "variant": "paper", "role": "method", "better": "higher", "unit": "%"}
    failed = pd.DataFrame([against("raw_pixels", **NONE, reason=OTHER_FAILED)])
    [said] = statements(pd.DataFrame([row | {"mean": 1.0}]), failed)
    assert said.state == "unknown"
    assert said.text == "has no verdict against raw pixels (it has no number)."


def test_another_methods_untrained_network_is_no_bar() -> None:
    row = {"method": "vae", "variant": "paper", "role": "method", "better": "higher", "unit": "%"}
    floors = [
        row | {"method": name, "variant": variant, "role": "floor"}
        for name, variant in (("raw_pixels", "paper"), ("patchvae", "untrained"))
    ]
    group = pd.DataFrame([row, *floors]).assign(mean=[3.0, 1.0, 9.0])
    compared = [against("raw_pixels"), against("bigan", relation="method", difference=-9.0)]
    [said] = statements(group, pd.DataFrame(compared))
    assert said.state == "beats"
    assert said.text == "beats raw pixels by 2.0 [1.0, 3.0] (p = 0.012)."
    assert ends(group).floor == 1.0


@pytest.mark.parametrize(
    ("changes", "asked", "state", "said"),
    [
        (
            {},
            *(3, "mixed"),
            f"is worse than copying: a gain of {MINUS}0.25 dB [{MINUS}0.39, {MINUS}0.11].",
        ),
        (
            {"mean": 0.25, "low": 0.11, "high": 0.39},
            *(3, "beats"),
            "is better than copying: a gain of 0.25 dB [0.11, 0.39].",
        ),
        (
            {"high": 0.11},
            *(3, "mixed"),
            f"cannot be told from copying: a gain of {MINUS}0.25 dB [{MINUS}0.39, 0.11].",
        ),
        (
            {"seeds": 1},
            *(1, "unknown"),
            f"has one seed: no verdict. So far it shows a gain of {MINUS}0.25 dB [{MINUS}0.39, "
            f"{MINUS}0.11] over copying.",
        ),
        (
            {"seeds": 2},
            *(3, "unknown"),
            f"has 2 of 3 seeds: no verdict. So far it shows a gain of {MINUS}0.25 dB "
            f"[{MINUS}0.39, {MINUS}0.11] over copying.",
        ),
    ],
)
def test_the_statement_on_a_gain(
    changes: dict[str, Any], asked: int, state: str, said: str
) -> None:
    row = {"method": "dlp_video", "variant": "demo", "unit": "dB", "better": "higher"}
    row |= {"mean": -0.25, "low": -0.39, "high": -0.11, "seeds": 3, "random": True}
    found = gain_statement(row | changes, asked, "copying")
    assert (found.state, found.method, found.text) == (state, "DLP video (demo)", said)


def test_statements_without_a_floor() -> None:
    row = {"method": "vae", "variant": "paper", "role": "method", "better": "higher", "mean": 1.0}
    [alone] = statements(pd.DataFrame([row]), pd.DataFrame([against("raw_pixels")]))
    assert alone.state == "unknown"
    assert "No floor control" in alone.method


def test_nobody_is_held_against_a_constant_of_the_data(tmp_path: Path) -> None:
    results = read(make(tmp_path))
    panels = panel_views(results, palette(results), {}, Failures(results))
    groups = [group for panel in panels for group in (*panel["first"], *panel["more"])]
    judged = {group["metric"]: bool(group["statements"]) for group in groups}
    constants = {"mean_shape", "constant_landmark_error"}
    constants |= {metric for metric in judged if metric.startswith("oracle_")}
    assert len(constants) == 5
    assert {metric for metric, is_judged in judged.items() if not is_judged} == constants
    compared = {group["metric"] for group in groups if group["standings"]}
    assert compared == set(judged) - constants


def test_an_untrained_method_is_a_floor_and_keeps_its_name_and_colour(tmp_path: Path) -> None:
    row = {"method": "patchvae", "variant": "paper", "better": "higher", "seeds": 3}
    rows = [
        row | {"role": "method", "mean": 5.0, "low": 4.9, "high": 5.1},
        row | {"role": "floor", "mean": 1.0, "low": 0.9, "high": 1.1, "variant": "untrained"},
        row | {"role": "floor", "mean": 1.0, "low": 0.9, "high": 1.1, "method": "raw_pixels"},
    ]
    controls = [("patchvae", "untrained"), ("raw_pixels", "paper")]
    compared = [against(*control, method="patchvae") for control in controls]
    [said] = statements(pd.DataFrame(rows).assign(unit="%"), pd.DataFrame(compared))
    assert said.method == "PatchVAE"
    assert re.match(r"beats PatchVAE \(untrained\) by .* and raw pixels by ", said.text)
    results = read(make(tmp_path))
    before = palette(results)
    untrained = results.metrics[results.metrics["method"] == "patchvae"].assign(
        role="floor", variant="untrained"
    )
    metrics = pd.concat([results.metrics, untrained])
    assert palette(results._replace(metrics=metrics)) == before
    assert "patchvae" in before
    assert "raw_pixels" not in before


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (63.249, "%", "63.2"),
        (-3.0, "% inter-ocular", "−3.0"),  # noqa: RUF001
        (0.123456, "", "0.1235"),
        (0.000123, "", "0.0001230"),
        (1234567.0, "", "1\u202f234\u202f567"),
        (0.0, "", "0"),
        (-0.04, "%", "0.0"),
        (float("nan"), "%", text.NOTHING),
        (float("inf"), "", text.NOTHING),
    ],
)
def test_numbers(value: float, unit: str, written: str) -> None:
    assert text.number(value, unit) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(4.25, "4.2 s"), (42, "42 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations(seconds: float, written: str) -> None:
    assert text.duration(seconds) == written


@pytest.mark.parametrize(
    ("name", "dirty", "written"),
    [
        ("c0ffee" * 6, False, "c0ffeec0ff"),
        ("c0ffee" * 6, True, "c0ffeec0ff with uncommitted changes"),
        ("not a git checkout, version 0.1.0", False, "not a git checkout, version 0.1.0"),
    ],
)
def test_commits(name: str, dirty: bool, written: str) -> None:
    assert text.commit(name, dirty) == written


def test_addresses_stay_apart() -> None:
    assert text.address("cell", "vae", "beta") == "cell-vae-beta"
    assert text.address("a b") != text.address("a-b") != text.address("a_b")
    assert re.fullmatch(r"[\w.-]+", text.address(HOSTILE))


def test_logs_read_as_a_terminal_leaves_them() -> None:
    assert text.plain("a\r\n10 %\r99 %\rdone\n\x1b[31mred\x1b[0m") == "a\ndone\nred"
