"""How the difference of two methods reads in a sentence."""

from collections.abc import Container, Mapping, Sequence
from typing import Any

from partbench.judgement import is_untrained
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


def lowered(method: str, variant: str, proper: Container[str] = ()) -> str:
    """Return how a name reads inside a sentence: a control's begins with a small letter.

    Args:
        method: its name.
        variant: its variant.
        proper: methods whose names are proper names. A method's untrained network keeps its name.
    """
    name = text.name(method, variant)
    if method in proper or is_untrained(variant) or name[1:2].isupper():
        return name
    return name[0].lower() + name[1:]
