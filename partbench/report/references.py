"""The works behind methods and published numbers, from `references.bib`."""

import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name("references.bib")
WORKS: Mapping[str, tuple[str, ...]] = {
    "bigan": ("donahue2017bigan",),
    "compact_bilinear": ("gao2016compact", "lin2015bilinear"),
    "dff": ("collins2018dff",),
    "dino_kmeans": ("choudhury2021parts", "caron2021dino", "amir2021dino"),
    "dino_parts": ("amir2021dino", "caron2021dino"),
    "dlp": ("daniel2022dlp",),
    "dlp_video": ("daniel2022dlp",),
    "fisher_vectors": ("perronnin2010fisher",),
    "foreground": ("chen2018deeplab",),
    "fv_vae": ("qiu2017fvvae",),
    "gt_keypoint_mean": ("choudhury2021parts",),
    "image_midpoint": ("choudhury2021parts",),
    "imagenet_pretrained": ("he2016resnet", "russakovsky2015imagenet"),
    "keynet": ("jakab2018keynet",),
    "kmeans": ("choudhury2021parts",),
    "knowledge_transfer": ("noroozi2018transfer", "zbinden2019lorbms"),
    "lorbms": ("zbinden2019lorbms",),
    "mean_shape": (),
    "mix": ("hu2018mix",),
    "patchvae": ("gupta2020patchvae",),
    "pooling": (),
    "principal_foreground": ("oquab2024dinov2",),
    "random_init": ("gupta2020patchvae",),
    "random_keypoints": (),
    "random_parts": (),
    "raw_pixels": (),
    "scops": ("hung2019scops",),
    "supervised": ("he2016resnet",),
    "supervised_attributes": ("zbinden2019lorbms",),
    "supervised_landmarks": ("jakab2018keynet",),
    "supervised_parts": ("newell2016hourglass",),
    "supervised_trunk": ("zbinden2019lorbms", "krizhevsky2012alexnet"),
    "throat_keypoint": ("choudhury2021parts",),
    "unsup_parts": ("choudhury2021parts",),
    "vae": ("kingma2014vae", "higgins2017beta", "gupta2020patchvae"),
    "vlad": ("jegou2010vlad",),
    "zhang": ("zhang2018landmarks",),
}
"""Method -> the works that it comes from, its own first; a control that is nobody's has none."""
PAPERS: Mapping[str, str] = {
    "dlp": "daniel2022dlp",
    "dve": "thewlis2019dve",
    "fv_vae": "qiu2017fvvae",
    "keynet": "jakab2018keynet",
    "lorbms": "zbinden2019lorbms",
    "mpae": "xia2025mpae",
    "patchvae": "gupta2020patchvae",
    "pdisconet": "vanderklis2023pdisconet",
    "unsup_parts": "choudhury2021parts",
}
"""Paper, as `published.csv` names it -> the work."""
ACCENTS = {'"': "\N{COMBINING DIAERESIS}", "'": "\N{COMBINING ACUTE ACCENT}"}
FEW = 4
"""Authors that are all named; of more, the first and "et al."."""


class Reference(NamedTuple):
    """One work."""

    key: str
    title: str
    authors: tuple[str, ...]
    """Family names."""
    venue: str
    year: str
    bibtex: str

    @property
    def people(self) -> str:
        """The authors in short."""
        if len(self.authors) > FEW:
            return f"{self.authors[0]} et al."
        return " and ".join(filter(None, [", ".join(self.authors[:-1]), self.authors[-1]]))


@cache
def references(path: Path = FILE) -> Mapping[str, Reference]:
    """Return the works of a BibTeX file by key, in its order.

    Args:
        path: one field a line, each value in braces.
    """
    works = {}
    for entry in re.findall(r"^@\w+\{.*?^\}$", path.read_text(), flags=re.DOTALL | re.MULTILINE):
        key = entry[entry.index("{") + 1 : entry.index(",")]
        fields = dict(re.findall(r"^  (\w+) = \{(.*)\},?$", entry, flags=re.MULTILINE))
        authors = fields["author"].split(" and ")
        venue = next(fields[k] for k in ("booktitle", "journal", "school") if k in fields)
        works[key] = Reference(
            key,
            _plain(fields["title"]),
            tuple(_plain(author.partition(",")[0]) for author in authors),
            _plain(venue),
            fields["year"],
            entry,
        )
    return works


def references_of(method: str) -> list[Reference]:
    """Return the works that a method comes from; none of a method that is not partbench's."""
    return [references()[key] for key in WORKS.get(method, ())]


def reference_of(paper: str) -> Reference | None:
    """Return the work that published numbers come from, as `published.csv` names it."""
    key = PAPERS.get(paper)
    return references()[key] if key else None


def _plain(value: str) -> str:
    """Return a value of BibTeX as plain text."""

    def composed(match: re.Match[str]) -> str:
        return unicodedata.normalize("NFC", match[2] + ACCENTS[match[1]])

    return re.sub(r"[{}]", "", re.sub(r"\{\\([\"'])(\w)\}", composed, value))
