"""How the page writes names, numbers and addresses."""

import hashlib
import math
import re
from typing import Any

NAMES = {
    "patchvae": "PatchVAE",
    "vae": "VAE",
    "bigan": "BiGAN",
    "dlp": "DLP",
    "dlp_video": "DLP video",
    "keynet": "KeyNet",
    "lorbms": "LORBMS",
    "mix": "MIX",
    "zhang": "Zhang et al.",
    "random_init": "Random initialisation",
    "raw_pixels": "Raw pixels",
    "supervised": "Supervised",
    "mean_shape": "Mean shape",
    "random_keypoints": "Random keypoints",
    "random_parts": "Random parts",
    "supervised_parts": "Supervised parts",
    "unsup_parts": "Choudhury et al.",
    "scops": "SCOPS",
    "dff": "DFF",
    "kmeans": "K-means",
    "dino_kmeans": "K-means on DINO",
    "dino_parts": "Amir et al.",
    "uld": "ULD",
    "huang_li": "Huang and Li",
    "pdisconet": "PDiscoNet",
    "mpae": "MPAE",
    "image_midpoint": "Image midpoint",
    "gt_keypoint_mean": "Mean of the true keypoints",
    "throat_keypoint": "True throat keypoint",
    "supervised_landmarks": "Supervised landmarks",
    "imagenet_pretrained": "ImageNet-pretrained",
    "supervised_trunk": "Supervised trunk",
    "supervised_attributes": "Supervised attributes",
    "knowledge_transfer": "Knowledge transfer",
    "fv_vae": "FV-VAE",
    "fisher_vectors": "Fisher vectors",
    "vlad": "VLAD",
    "compact_bilinear": "Compact bilinear pooling",
    "pooling": "Pooling",
    "foreground": "Supervised foreground",
    "principal_foreground": "Principal foreground",
    "dve": "DVE",
}
"""The field's spelling; a method that is not here goes by its own key."""

PLAIN = re.compile(r"[A-Za-z0-9_.]+(-[A-Za-z0-9_.]+)*")
"""Names that stand in an address as they are."""
NOTHING = "\N{EN DASH}"
"""Where a number would stand, but there is none."""


def name(method: str, variant: str = "paper") -> str:
    """Return a method's name, with its variant where that says something: `VAE (beta+lw)`."""
    title = NAMES.get(method, method)
    return title if variant in ("", "paper") else f"{title} ({variant})"


def data(train: str, evaluated: str) -> str:
    """Return the data of a task: `mafl (trained on celeba)`."""
    return evaluated if train == evaluated else f"{evaluated} (trained on {train})"


def title(task: str, train: str, evaluated: str) -> str:
    """Return a task: `Landmarks on mafl (trained on celeba)`."""
    return f"{task} on {data(train, evaluated)}"


def number(value: Any, unit: str = "") -> str:
    """Return a number with one decimal if it is a percentage, two if dB, else four digits or so."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if unit.startswith("%"):
        decimals = 1
    elif unit == "dB":  # no eye sees the third
        decimals = 2
    elif value == 0:
        decimals = 0
    else:
        most = 4 if abs(value) >= 1e-3 else 7
        decimals = min(max(3 - math.floor(math.log10(abs(value))), 0), most)
    written = f"{round(float(value), decimals) + 0.0:,.{decimals}f}"  # no minus before nothing
    return written.replace("-", "\N{MINUS SIGN}").replace(",", "\N{NARROW NO-BREAK SPACE}")


def share(value: float) -> str:
    """Return a number on a scale from 0 to 1, such as from floor to ceiling, with two decimals."""
    if not math.isfinite(value):
        return NOTHING
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")


def interval(low: float, high: float, unit: str = "") -> str:
    """Return `61.2 to 65.0`, which a minus sign cannot confuse."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return NOTHING
    return f"{number(low, unit)} to {number(high, unit)}"


def share_interval(low: float, high: float) -> str:
    """Return `0.61 to 0.65`."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return NOTHING
    return f"{share(low)} to {share(high)}"


def p_value(p: float) -> str:
    """Return `p < 0.001`, `p = 0.012` or `p = 0.31`."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def duration(seconds: float) -> str:
    """Return seconds as people say them: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    if not math.isfinite(seconds):
        return NOTHING
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def listed(items: list[str]) -> str:
    """Return `a`, `a and b` or `a, b and c`."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def address(*parts: object) -> str:
    """Return the id of a place in the page: it follows from its names alone, so it stays.

    A dash joins the names, or two where a name has dashes of its own. Where other characters had
    to go, a digest of the names keeps two such places apart.
    """
    names = [*map(str, parts)]
    text = "/".join(names)
    if all(PLAIN.fullmatch(name) for name in names):
        return ("--" if "-" in text else "-").join(names)
    short = re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-")
    return f"{short}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def plain(log: str) -> str:
    """Return a log as a terminal would leave it: no escape codes, progress bars' last state."""
    log = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", log)
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in log.split("\n"))


def commit(name: str, dirty: bool) -> str:
    """Return a commit as it is named in the pages; what is no commit's hash stays whole."""
    short = re.sub(r"^([0-9a-f]{10})[0-9a-f]+$", r"\1", name)
    return short + (" with uncommitted changes" if dirty else "")
