"""Other images in the layout of STL-10, so that its protocol can be tried on them.

A folder with `train/<class>/` (500 images of each of ten classes), `test/<class>/` and, if there
is one, `unlabeled/` becomes `stl10_binary/`, with ten folds of 100 images of each class. As in
STL-10, images do not stand class by class: some readings depend on their order.
"""

from pathlib import Path

import numpy as np

from partbench.data.folder import Folder
from partbench.data.image import resize
from partbench.data.stl10 import CLASSES, FOLD_IMAGES, FOLDS, SIDE, STL10
from partbench.errors import BadInput
from partbench.files import aside_of, make_empty, put_in_place
from partbench.progress import Progress


def write_as_stl10(source: Path, root: Path, seed: int = 0) -> Path:
    """Write images in the layout of STL-10; return its folder.

    Args:
        source: the folder of the images.
        root: the data root, where `stl10_binary` is made.
        seed: draws the orders and the folds.

    Raises:
        BadInput: the folder is there already, or the images are not 5,000 of ten classes, equally
            many of each, with test images of the same classes.
    """
    out = root / "stl10_binary"
    if out.exists():
        raise BadInput(f"{out} is there already; move it away to write another one")
    more = ["unlabeled"] if (source / "unlabeled").is_dir() else []
    splits = {name: name for name in (*more, "train", "test")}
    values = {"path": source.name, "splits": splits}
    reader = Folder(source.parent, Folder.Settings.parse(values, "as-stl10"))
    names = reader.splits()
    counts = {split: len(of_split) for split, of_split in names.items()}
    number = {name: i for i, name in enumerate(reader.class_names)}
    labels = {
        split: np.array([number.get(name.rpartition("/")[0], -1) for name in names[split]])
        for split in ("train", "test")
        if split in names
    }
    if any((of_split < 0).any() for of_split in labels.values()):
        raise BadInput(f"{source}: images lie beside class folders; move them into one")
    each = np.bincount(labels.get("train", np.zeros(0, int)), minlength=CLASSES)
    if counts.get("train") != STL10.counts["train"] or len(each) != CLASSES or np.ptp(each):
        raise BadInput(
            f"{source}: {each.tolist()} training images by class; STL-10 has "
            f"{STL10.counts['train'] // CLASSES} of each of {CLASSES}"
        )
    if not counts.get("test") or any(counts[split] > STL10.counts[split] for split in counts):
        raise BadInput(
            f"{source}: {counts} images; STL-10 has at least one test image, and at most "
            f"{dict(STL10.counts)}"
        )
    aside = aside_of(out)
    make_empty(aside)
    (aside / "class_names.txt").write_text("".join(f"{name}\n" for name in reader.class_names))
    draw = np.random.default_rng(seed)
    orders = {split: draw.permutation(n) for split, n in counts.items()}
    labels = {split: of_split[orders[split]] for split, of_split in labels.items()}
    members = [np.flatnonzero(labels["train"] == c) for c in range(CLASSES)]
    folds = [
        draw.permutation(
            np.concatenate([draw.permutation(m)[: FOLD_IMAGES // CLASSES] for m in members])
        )
        for _ in range(FOLDS)
    ]
    lines = (" ".join(map(str, fold)) for fold in folds)
    (aside / "fold_indices.txt").write_text("".join(f"{line}\n" for line in lines))
    for split, n in counts.items():
        if split in labels:
            (labels[split] + 1).astype(np.uint8).tofile(aside / f"{split}_y.bin")
        path = aside / f"{split}_X.bin"
        with Progress(f"as-stl10 {split}", n, "images") as progress, path.open("wb") as file:
            for i in orders[split].tolist():
                sample = reader.sample(split, i)
                square = resize(sample.image, (SIDE, SIDE), reader.crop_box(sample), False)
                file.write(square.transpose(2, 1, 0).tobytes())
                progress.advance()
    put_in_place(aside, out)
    return out
