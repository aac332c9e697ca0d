"""The rule that compares a number of ours with a published one, and its error rates.

Simulated error rates stand in the README's section on verdicts; `tests/test_verdict.py` simulates
them again.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple, get_args

from scipy import stats

Label = Literal[
    "reproduced",
    "better",
    "worse",
    "undecided",
    "not comparable",
    "unverified reference",
    "reference only",
    "failed",
    "not run",
]
LABELS: tuple[Label, ...] = get_args(Label)
"""All labels, in the order of the page."""

MARGIN = 0.05
"""Share of a published number within which ours counts as the same. Papers of this field print two
or three digits, differ in unstated details, and call gains of this size small; a share this size
also keeps numbers apart that a paper puts forward as different."""
MOST_SEEDS = 100
"""Nobody trains more often to check a number."""
FEWEST_EQUAL = 3
"""Seeds that must all give the same number before it counts as one that the seed does not change.
Two may agree by chance, as with the accuracy on few test images."""


class Verdict(NamedTuple):
    """What may be said about one published number."""

    label: Label
    reason: str


class Published(NamedTuple):
    """A number of the literature."""

    value: float
    rounding: float
    """Half a unit of its last printed digit."""
    seeds: int = 1
    """Trainings that it is the mean of; 1 where that is unknown."""
    better: Literal["higher", "lower"] = "higher"


def judge(values: Sequence[float], theirs: Published, *, random: bool) -> Verdict:
    """Compare our number with a published one.

    Both numbers are draws: another seed would have given another value, here and there. Both are
    measured on the same test samples, so what the samples add to both cancels in the difference.
    What samples add differently from seed to seed is part of the spread between seeds. So the
    spread between our seeds is all that is needed, and theirs is taken to be the same.

    With d our mean less their value, S our seeds, R theirs, s the SD between our seeds, and t
    Student's quantile at S - 1 degrees of freedom, the first of these that holds decides:

    1. `undecided`: the seed can change our number, and there is one seed, or there are fewer than
       `FEWEST_EQUAL` seeds that all gave the same value. The spread is then unknown.
    2. `reproduced`: |d| + t(95 %) s sqrt(1/S + (1 + `MARGIN`)^2/R) is at most the margin, which is
       `MARGIN` x |value|, or half a unit of the last printed digit if that is more. These are two
       one-sided tests at 5 % (Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 1987).
       Their number counts 1 + `MARGIN` times because the margin moves with it (Sasabuchi,
       Biometrika 1980). A difference as large as the margin passes in at most 5 % of cases.
    3. `better` or `worse`: |d| is more than the half-width of the 95 % prediction interval of the
       difference, t(97.5 %) s sqrt(1/S + 1/R), and half a unit of the last digit. That happens to
       an exact replication in at most 5 % of cases.
    4. `undecided`: the difference may be none, or may be more than the margin.

    Where s is 0, rule 2 or 3 always decides. The rates assume normal spread between seeds.

    Args:
        values: our number, one value a seed, in their unit.
        theirs: the published number.
        random: whether the seed can change our number at all. If it cannot, one seed suffices. If
            the values differ all the same, their spread counts.

    Raises:
        ValueError: there is no value, a number is not finite, or `theirs` has a negative rounding
            or no seed.
    """
    label = decide(values, theirs, random=random)
    mean, spread = _moments(values)
    difference, seeds = mean - theirs.value, len(values)
    opening = _opening(difference, seeds, theirs)
    if label == "undecided" and spread == 0:
        return Verdict(label, f"{opening}. {_unknown_spread(seeds)}")
    margin = f"the margin of {_written(margin_of(theirs), theirs)}"
    chance = _written(half_width(spread, seeds, theirs.seeds) + theirs.rounding, theirs)
    if label == "reproduced":
        sure = "" if spread == 0 else ", and so are both ends of its 90 % interval"
        return Verdict(label, f"{opening}, within {margin}{sure}")
    if label == "undecided":
        needed = seeds_to_decide(difference, spread, seeds, theirs)
        return Verdict(
            label,
            f"{opening}. This run tells differences of more than {chance} from chance; it cannot "
            f"tell whether this one is within {margin}. {_advice(needed, theirs)}",
        )
    limit = margin if spread == 0 else f"the {chance} that chance explains"
    return Verdict(label, f"{opening}, more than {limit}")


def decide(values: Sequence[float], theirs: Published, *, random: bool) -> Label:
    """Return the label of `judge` alone; its arguments and errors are the same."""
    _check(values, theirs)
    mean, spread = _moments(values)
    if random and spread == 0 and len(values) < FEWEST_EQUAL:
        return "undecided"
    return _label(mean - theirs.value, spread, len(values), theirs)


def margin_of(theirs: Published) -> float:
    """Return the largest difference that does not matter, in the unit of the number."""
    return max(MARGIN * abs(theirs.value), theirs.rounding)


def half_width(
    spread: float, seeds: int, of_theirs: int, level: float = 0.95, share: float = 0.0
) -> float:
    """Return the half-width of the prediction interval of our mean less theirs.

    Args:
        spread: SD between seeds.
        seeds: ours, at least 2 unless the spread is 0.
        of_theirs: their seeds.
        level: of the two-sided interval.
        share: their number counts 1 + `share` times.
    """
    if spread == 0:
        return 0.0
    return _t(seeds - 1, level) * spread * math.sqrt(1 / seeds + (1 + share) ** 2 / of_theirs)


def seeds_to_decide(difference: float, spread: float, seeds: int, theirs: Published) -> int | None:
    """Return the smallest number of our seeds that would decide; None above `MOST_SEEDS`.

    The difference and the spread are taken to stay as they are. Where theirs is a single seed, its
    own spread may be too large for any number of ours.

    Args:
        difference: our mean less theirs.
        spread: SD between our seeds.
        seeds: of ours so far.
        theirs: the published number.
    """
    enough = range(seeds + 1, MOST_SEEDS + 1)
    return next((n for n in enough if _label(difference, spread, n, theirs) != "undecided"), None)


def _label(difference: float, spread: float, seeds: int, theirs: Published) -> Label:
    """Return the label of a difference whose spread is known; see `judge`, rules 2 to 4."""
    size = abs(difference)
    if size + half_width(spread, seeds, theirs.seeds, 0.90, MARGIN) <= margin_of(theirs):
        return "reproduced"
    if size > half_width(spread, seeds, theirs.seeds) + theirs.rounding:
        return "better" if (difference > 0) == (theirs.better == "higher") else "worse"
    return "undecided"


@cache
def _t(freedom: int, level: float) -> float:
    return float(stats.t.ppf(0.5 + level / 2, freedom))


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the SD of values; an SD of exactly 0 where all are equal to the bit."""
    if min(values) == max(values):
        return float(values[0]), 0.0
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def _check(values: Sequence[float], theirs: Published) -> None:
    if not len(values) or not all(map(math.isfinite, (*values, theirs.value, theirs.rounding))):
        raise ValueError(f"every number must be finite, and ours at least one: {values}, {theirs}")
    if theirs.rounding < 0 or theirs.seeds < 1:
        raise ValueError(f"rounding must not be negative, seeds at least 1: {theirs}")


def _opening(difference: float, seeds: int, theirs: Published) -> str:
    ours = _written(theirs.value + difference, theirs)
    counted = f"{seeds} seeds" if seeds > 1 else "1 seed"
    sign = "+" if difference > 0 else ""
    return (
        f"Ours is {ours} ({counted}), theirs {_written(theirs.value, theirs, more=0)}: "
        f"a difference of {sign}{_written(difference, theirs)}"
    )


def _unknown_spread(seeds: int) -> str:
    if seeds == 1:
        return "One seed does not show how much seeds differ; three give a first answer"
    return f"Both seeds gave the same value, perhaps by chance; {FEWEST_EQUAL} seeds would tell"


def _advice(needed: int | None, theirs: Published) -> str:
    if needed is not None:
        return f"About {needed} seeds would decide"
    counted = f"{theirs.seeds} seeds" if theirs.seeds > 1 else "one seed"
    return f"Even {MOST_SEEDS} seeds would not decide, as theirs counts as {counted}"


def _written(value: float, theirs: Published, more: int = 1) -> str:
    """Return a number with `more` decimals than theirs was printed with."""
    if theirs.rounding > 0:
        decimals = max(0, round(-math.log10(2 * theirs.rounding))) + more
        text = f"{round(value, decimals) + 0.0:.{decimals}f}"  # no minus before nothing
    else:
        text = f"{value:.4g}"
    return text.replace("-", "\N{MINUS SIGN}")
