"""The works behind methods, probes, data sets and networks, as BibTeX.

A class names its works in `references`: keys of `references.bib`, or, of a class that comes from
elsewhere, BibTeX itself.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from partbench.errors import BadInput, shown
from partbench.settings import nearest

FILE = Path(__file__).with_name("references.bib")
IMAGENET = "russakovsky2015imagenet"
NETWORKS: Mapping[str, tuple[str, ...]] = {
    "alexnet": ("krizhevsky2012alexnet",),
    "deepcluster": ("caron2018deepcluster", IMAGENET),
    "dino": ("caron2021dino", IMAGENET),
    "dinov2": ("oquab2024dinov2",),
    "inception": ("szegedy2016inception", IMAGENET),
    "mobilenet": ("howard2017mobilenets", IMAGENET),
    "raft": ("teed2020raft",),
    "reg4": ("darcet2024registers",),
    "resnet18": ("he2016resnet",),
    "resnet50": ("he2016resnet",),
    "resnet152": ("he2016resnet",),
    "swav": ("caron2020swav", IMAGENET),
    "tvl1": ("zach2007tvl1",),
    "vgg16": ("simonyan2015vgg",),
    "vgg19": ("simonyan2015vgg",),
}
"""A word in the name of a network, or of the file with its weights -> the works behind it."""
VENUES = ("booktitle", "journal", "school", "institution", "publisher", "howpublished")
ENTRY = re.compile(r"@(\w+)\s*\{\s*([^\s,{}]+)\s*,")
FIELD, BARE = re.compile(r"\s*(\w+)\s*=\s*"), re.compile(r"\w+")
COMMA, CLOSE = re.compile(r"\s*,?"), re.compile(r"\s*\}")
ACCENTS = {
    '"': "\N{COMBINING DIAERESIS}",
    "'": "\N{COMBINING ACUTE ACCENT}",
    "`": "\N{COMBINING GRAVE ACCENT}",
    "^": "\N{COMBINING CIRCUMFLEX ACCENT}",
    "~": "\N{COMBINING TILDE}",
    "c": "\N{COMBINING CEDILLA}",
    "v": "\N{COMBINING CARON}",
}
LETTERS = {"l": "ł", "L": "Ł", "o": "ø", "O": "Ø", "ss": "ß", "ae": "æ", "aa": "å"}
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

    def __str__(self) -> str:
        return f"{self.people}: {self.title}. {self.venue}, {self.year}."


def resolve(references: Iterable[str], where: str) -> list[Reference]:
    """Return the works that `references` of a class name, in its order.

    Args:
        references: keys of `references.bib`, or BibTeX with one entry or several.
        where: they stand, for messages.

    Raises:
        BadInput: there is no such key, or an entry is not complete.
    """
    found = []
    for reference in references:
        if "@" in reference:
            found += parse(reference, where)
        elif reference in library():
            found.append(library()[reference])
        else:
            raise BadInput(
                f"{where}: no work {shown(reference)} in partbench/references.bib; "
                f"{nearest(reference, library())} A class from elsewhere may have BibTeX itself "
                "in place of a key"
            )
    return found


def of_networks(names: Iterable[str]) -> list[str]:
    """Return the keys of the works behind networks.

    Args:
        names: of networks and of their files of weights; other words count for nothing.
    """
    words = dict.fromkeys(word for name in names for word in re.findall(r"[a-z0-9]+", name.lower()))
    return list(dict.fromkeys(key for word in words for key in NETWORKS.get(word, ())))


@cache
def library() -> Mapping[str, Reference]:
    """Return the works of `references.bib` by key, in its order."""
    return {work.key: work for work in parse(FILE.read_text(encoding="utf-8"), FILE.name)}


def parse(text: str, where: str) -> list[Reference]:
    """Return the works in a text of BibTeX.

    Args:
        text: entries whose values stand in braces or quotes, or are numbers; without `@string`.
        where: it stands, for messages.

    Raises:
        BadInput: an entry lacks its end, the authors, the title, the venue or the year, or there
            is none.
    """
    works, end = [], 0
    while entry := ENTRY.search(text, end):
        kind, key = entry.groups()
        place = f"{where}: {key}"
        fields, end = _fields(text, entry.end(), place)
        venue = next((fields[name] for name in VENUES if name in fields), "")
        values = {"author": fields.get("author"), "title": fields.get("title")}
        values |= {"venue": venue, "year": fields.get("year")}
        if lacking := [name for name, value in values.items() if not value]:
            raise BadInput(
                f"{place}: the entry lacks {' and '.join(lacking)}; add it"
                + (f" (one of {', '.join(VENUES)})" if "venue" in lacking else "")
            )
        lines = (f"  {name} = {{{value}}}" for name, value in fields.items())
        works.append(
            Reference(
                key,
                _plain(fields["title"]),
                tuple(_family(author) for author in re.split(r"\s+and\s+", fields["author"])),
                _plain(venue),
                fields["year"],
                f"@{kind.lower()}{{{key},\n" + ",\n".join(lines) + "\n}",
            )
        )
    if not works:
        raise BadInput(
            f"{where}: {shown(text)} holds no BibTeX entry, such as @article{{key, ...}}"
        )
    return works


def _fields(text: str, start: int, place: str) -> tuple[dict[str, str], int]:
    """Return the fields of an entry that go on at `start`, and where the entry ends."""
    fields = {}
    while field := FIELD.match(text, start):
        value, start = _value(text, field.end(), place)
        fields[field[1].lower()] = " ".join(value.split())
        start = COMMA.match(text, start).end()  # type: ignore[union-attr]
    end = CLOSE.match(text, start)
    if end is None:
        line = shown(text[start : start + 40].strip())
        raise BadInput(f"{place}: `name = {{value}},` or a closing brace is expected before {line}")
    return fields, end.end()


def _value(text: str, start: int, place: str) -> tuple[str, int]:
    """Return the value that begins at `start`, without its braces or quotes, and where it ends."""
    if bare := BARE.match(text, start):
        return bare[0], bare.end()
    depth, last = 0, '"' if text[start : start + 1] == '"' else "}"
    for i in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0 and text[i] == last and i > start:
            return text[start + 1 : i], i + 1
    raise BadInput(f"{place}: a value has no end; close its brace or quote")


def _family(author: str) -> str:
    """Return the family name of `Family, Given` or `Given Family`."""
    family, comma, _ = author.partition(",")
    return _plain(family if comma else author.split()[-1])


def _plain(value: str) -> str:
    """Return a value of BibTeX as plain text."""

    def accented(match: re.Match[str]) -> str:
        return unicodedata.normalize("NFC", match[2] + ACCENTS[match[1]])

    value = re.sub(r"\\([\"'`^~])\s*\{?\\?(\w)\}?", accented, value)
    value = re.sub(r"\\([cv])(?:\s+|\{)(\w)\}?", accented, value)
    value = re.sub(rf"\\({'|'.join(LETTERS)})\b\s*", lambda match: LETTERS[match[1]], value)
    return re.sub(r"[{}]|\\(?=&)", "", value)
