"""The works behind the methods and published numbers that the page shows."""

from collections.abc import Mapping

from partbench import method as methods
from partbench import plugins
from partbench.method import Method
from partbench.references import Reference, library, resolve

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


def references_of(method: str) -> list[Reference]:
    """Return the works that a method comes from; none of a method that is not here."""
    known = plugins.names("methods", Method)
    return resolve(methods.load(method).references, method) if method in known else []


def reference_of(paper: str) -> Reference | None:
    """Return the work that published numbers come from, as `published.csv` names it."""
    key = PAPERS.get(paper)
    return library()[key] if key else None
