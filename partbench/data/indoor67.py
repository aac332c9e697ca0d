"""MIT Indoor-67 (Quattoni & Torralba, CVPR 2009): 15,620 images of 67 indoor scenes."""

from collections.abc import Sequence
from functools import cached_property

from partbench.data.image import SUFFIXES, read_image
from partbench.data.reader import Reader, Sample
from partbench.errors import BadInput

SOURCE = "web.mit.edu/torralba/www/indoor.html"


class Indoor67(Reader):
    """The official lists of 80 training and 20 test images a class, placed by hand.

    The split `unlabeled` is PatchVAE's "allminustest": all images but the 1,340 test images.
    """

    licence = "research"
    references = ("quattoni2009indoor",)
    counts = {"unlabeled": 14_280, "train": 5_360, "test": 1_340}

    @cached_property
    def _lists(self) -> dict[str, list[str]]:
        folder = self.root / "indoor67"
        lists = {}
        for split, file in (("train", "TrainImages.txt"), ("test", "TestImages.txt")):
            if not (folder / file).exists():
                raise BadInput(
                    f"{folder / file} is missing; get the list from {SOURCE} and place it there"
                )
            lines = (folder / file).read_text().splitlines()  # some names contain spaces
            lists[split] = [line.strip() for line in lines if line.strip()]
        images = folder / "Images"
        if not images.is_dir():
            raise BadInput(
                f"{images} is missing; get indoorCVPR_09.tar from {SOURCE} and unpack it there"
            )
        test = set(lists["test"])
        names = sorted(
            str(p.relative_to(images)) for p in images.glob("*/*") if p.suffix.lower() in SUFFIXES
        )
        return {"unlabeled": [name for name in names if name not in test], **lists}

    @cached_property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]
        """The 67 scenes, sorted."""
        return sorted({name.partition("/")[0] for name in self._lists["train"]})

    @cached_property
    def _class_number(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.class_names)}

    def splits(self) -> dict[str, Sequence[str]]:
        """Return unlabeled, train and test.

        Raises:
            BadInput: a list or the folder of images is missing.
        """
        return dict(self._lists)

    def present(self, split: str) -> Sequence[int]:
        """Return the indices of the images that are present."""
        images = self.root / "indoor67" / "Images"
        return [i for i, name in enumerate(self._lists[split]) if (images / name).exists()]

    def sample(self, split: str, index: int) -> Sample:
        """Return an image, labelled with its scene except in the split `unlabeled`."""
        name = self._lists[split][index]
        image = read_image(self.root / "indoor67" / "Images" / name)
        label = None if split == "unlabeled" else self._class_number[name.partition("/")[0]]
        return Sample(name, image, label=label)
