"""What the numbers were measured on: the data sets, and the same images through every method."""

import numpy as np
from markupsafe import Markup

from partbench.outputs import generated_images, movement, reconstructions
from partbench.report import raster, text
from partbench.report.origins import origin
from partbench.report.read import PictureRecord, Results
from partbench.report.section import View


def picture_views(pictures: list[PictureRecord]) -> list[View]:
    """Return, for each data set, every method's pictures of the same images, one seed each."""
    groups: dict[tuple[str, str], list[PictureRecord]] = {}
    seen = set()
    for picture in pictures:
        key = (picture.method, picture.variant, picture.train, picture.eval)
        if key not in seen:
            seen.add(key)
            groups.setdefault((picture.train, picture.eval), []).append(picture)
    views = []
    for (train, evaluated), same in groups.items():
        strips = strips_of(same)
        if len(strips) > 1:  # there is more than the originals
            views.append(
                {
                    "id": text.address("pictures", *dict.fromkeys([train, evaluated])),
                    "title": f"Pictures of {text.data(train, evaluated)}",
                    "train": train,
                    "eval": evaluated,
                    "strips": strips,
                }
            )
    return views


def strips_of(same: list[PictureRecord]) -> list[tuple[str, str, Markup]]:
    """Return strips, each with a title and a note: originals, reconstructions, generated images."""
    originals = same[0].arrays["originals"]
    strips = [("Originals", "", raster.strip(originals))]
    for picture in same:
        if decoded := reconstructions.Pictures.read(picture.arrays):
            title = text.name(picture.method, picture.variant)
            if not np.array_equal(decoded.originals, originals):
                strips.append((title, "its own originals", raster.strip(decoded.originals)))
            what = f"reconstructions, seed {picture.seed}"
            strips.append((title, what, raster.strip(decoded.reconstructions)))
    for picture in same:
        if made := generated_images.Pictures.read(picture.arrays):
            title = text.name(picture.method, picture.variant)
            what = f"generated images, seed {picture.seed}"
            strips.append((title, what, raster.strip(made.images)))
    for picture in same:
        if moved := movement.Pictures.read(picture.arrays):
            title = text.name(picture.method, picture.variant)
            what = "its surest particle moves"
            strips.append((title, what, raster.strip(moved.frames[::2])))
            strips.append((title, "the same, moving", raster.animation(moved.frames)))
    return strips


def data_views(results: Results) -> list[View]:
    """Return the data sets, with their contact sheets."""
    return [
        {
            "id": text.address("data", data.name),
            "name": data.name,
            "reader": data.meta.get("reader", ""),
            "origin": origin(data.reader) if data.reader else "",
            "licence": data.meta.get("licence") or "not stated",
            "checksum": data.meta.get("checksum", ""),
            "classes": len(data.meta.get("class_names", [])),
            "subset": data.meta.get("subset", False),
            "splits": data.meta.get("splits", {}),
            "sheet": raster.sheet(data.sheet) if data.sheet else None,
        }
        for data in results.data
    ]
