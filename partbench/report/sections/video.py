"""What is behind the video probe's numbers: predicted clips beside the true ones, PSNR by step."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image, ImageDraw, ImageFont
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from partbench.outputs.predictions import Films
from partbench.probes.video import VideoSetting
from partbench.report import figures, raster, text
from partbench.report.compare import gain_statement
from partbench.report.figures import Line
from partbench.report.read import CellRecord, records
from partbench.report.section import MethodRecord, Reference, Section, Task, View

TILE, LABEL, GAP = 128, 34, 6
"""Side of a frame, height of what stands below it, and the gap between two; pixels."""
DURATION = 500
"""Of a frame, milliseconds: long enough to read its PSNR."""
GROUND, WORDS, GIVEN = (24, 26, 30), (240, 240, 240), (150, 155, 165)


class VideoSection(Section):
    """Predicted clips, PSNR by step, and whether a prediction beats the last frame again."""

    name = "Video prediction"
    title = "Video"
    order = 50
    headline = ("psnr",)
    headline_settings = {VideoSetting(): "mean over the predicted frames"}
    labels: ClassVar = {
        "psnr": "PSNR",
        "copy_psnr": "PSNR of the last frame, shown again",
        "told_psnr": "PSNR, told the true particles",
        "gain": "Gain over the last frame, shown again",
    }
    references: ClassVar = {
        "copy_psnr": [Reference("psnr", "floor", "Last frame again")],
        "told_psnr": [Reference("psnr", "ceiling", "Told the true particles")],
    }
    gains = {"gain": "showing the last frame again"}

    def view(self, task: Task) -> View | None:
        """Return what the section shows of one task."""
        views = [view for method in task.methods if (view := view_of(method, task))]
        return {"train": task.train, "eval": task.eval, "methods": views} if views else None


class ByStep(BaseModel):
    """Mean PSNR of each predicted frame, dB."""

    prediction: list[FiniteFloat] = Field(alias="psnr", min_length=1)
    copied: list[FiniteFloat] = Field(alias="copy_psnr", min_length=1)
    told: list[FiniteFloat] = Field(alias="told_psnr", min_length=1)


class Details(BaseModel):
    """What the report reads of the video probe's details."""

    context: int
    by_step: ByStep = Field(alias="by step")


def view_of(method: MethodRecord, task: Task) -> View | None:
    """Return a method's entry, of the first seed that has a whole cell; None if there is none."""
    for cell in method.cells:
        try:
            details = Details.model_validate(cell.record.get("details"))
        except ValidationError:  # damaged, or from another version
            continue
        key = (method.method, method.variant, task.train, task.eval)
        return {
            "id": text.address("video", *key),
            "name": method.name,
            "seed": cell.seed,
            "context": details.context,
            "verdict": verdict(method, task.numbers),
            "chart": chart(method, details.by_step),
            "clips": animations(cell),
        }
    return None


def verdict(method: MethodRecord, numbers: pd.DataFrame) -> str:
    """Return in words whether the prediction is better than the last frame again."""
    rows = numbers[
        (numbers["method"] == method.method)
        & (numbers["variant"] == method.variant)
        & (numbers["metric"] == "gain")
        & (numbers["settings"] == VideoSetting())
    ]
    if not len(rows):
        return ""
    floor = VideoSection.gains["gain"]
    asked = max(len(method.runs), int(rows.iloc[0]["seeds"]))
    return f"The prediction {gain_statement(records(rows)[0], asked, floor).text}"


def decibels(value: float) -> str:
    """Return a number of dB with two decimals; no eye sees the third."""
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def chart(method: MethodRecord, by_step: ByStep) -> Markup:
    """Draw PSNR against steps: prediction, last frame again, and what the decoder could show."""
    drawn = [
        (method.name, "method", by_step.prediction),
        ("last frame again", "floor", by_step.copied),
        ("told the true particles", "ceiling", by_step.told),
    ]
    lines = [
        Line(label, role, method.colour, range(1, len(values) + 1), values)
        for label, role, values in drawn
    ]
    spoken = "; ".join(
        f"{label} {decibels(values[0])} in step 1, {decibels(values[-1])} in step {len(values)}"
        for label, _, values in drawn
    )
    return figures.lines(lines, ("predicted frame", "PSNR (dB)"), f"PSNR in dB: {spoken}")


def animations(cell: CellRecord) -> list[tuple[Markup, str]]:
    """Return the first test clips, each an animation with its description; none if damaged."""
    films = Films.read(cell.arrays)
    if films is None:
        return []
    return [
        (
            raster.animation(film(true, predicted, psnr, copied), scale=1, duration=DURATION),
            f"Test clip {number}: true frames, prediction with a mean PSNR of "
            f"{decibels(psnr.mean())} dB, last frame again with {decibels(copied.mean())} dB",
        )
        for number, (true, predicted, psnr, copied) in enumerate(zip(*films, strict=True), start=1)
    ]


def film(
    true: np.ndarray, predicted: np.ndarray, psnr: Sequence[float], copied: Sequence[float]
) -> np.ndarray:
    """Return frames that show truth, prediction and the last frame given side by side.

    Args:
        true: uint8 [T, S, S, 3].
        predicted: uint8 [steps, S, S, 3], of the last frames.
        psnr: of the prediction by step, dB.
        copied: of the last frame given, dB.

    Returns:
        uint8 [T, TILE + LABEL, 3 TILE + 2 GAP, 3].
    """
    context = len(true) - len(predicted)
    frames = []
    for number, now in enumerate(true):
        step = number - context
        if step < 0:
            tiles = [(now, title, "given") for title in ("true", "prediction", "last frame")]
        else:
            tiles = [
                (now, "true", f"step {step + 1}"),
                (predicted[step], "prediction", f"{psnr[step]:.1f} dB"),
                (true[context - 1], "last frame", f"{copied[step]:.1f} dB"),
            ]
        frames.append(_row(tiles, GIVEN if step < 0 else WORDS))
    return np.stack(frames)


def _row(tiles: Sequence[tuple[np.ndarray, str, str]], fill: tuple[int, int, int]) -> np.ndarray:
    """Return pictures in a row, two lines of words below each."""
    row = Image.new("RGB", (len(tiles) * (TILE + GAP) - GAP, TILE + LABEL), GROUND)
    draw, font = ImageDraw.Draw(row), ImageFont.load_default(13)
    for i, (picture, *words) in enumerate(tiles):
        left = i * (TILE + GAP)
        row.paste(
            Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.NEAREST), (left, 0)
        )
        for line, word in enumerate(words):
            draw.text((left + 4, TILE + 1 + 16 * line), word, fill, font)
    return np.asarray(row)
