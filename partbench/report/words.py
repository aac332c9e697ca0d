"""How the difference of two methods reads in a sentence."""

from collections.abc import Mapping, Sequence
from typing import Any

from partbench.report import text
from partbench.standings import Pair


def ends(pair: Pair, ruler: Mapping[str, Any]) -> Sequence[str]:
    """Return a difference and its interval, counted so that what a sentence says is positive.

    Args:
        pair: of which the sentence says that the method is better or worse; a difference that is
            not told apart is a gain.
        ruler: with `unit` and `better`.
    """
    values = [pair.difference, pair.low, pair.high]
    if (pair.outcome == "worse") == (ruler["better"] == "higher"):
        values = [-values[0], -values[2], -values[1]]
    return [text.number(value, ruler["unit"]) for value in values]


def lowered(method: str, variant: str) -> str:
    """Return a control's name inside a sentence; a name with a capital within stays."""
    name = text.name(method, variant)
    return name if name[1:2].isupper() else name[0].lower() + name[1:]
