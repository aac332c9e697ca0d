"""The rules that say of two methods which is better, and of a method whether it beats its floors.

The tests behind them are in `partbench.comparisons`; that of a number against a published one is
`partbench.verdict`. All rules here are pure functions of counts and of rows of tables.

**Which seeds a verdict needs.** A comparison has a verdict only if both sides have all the seeds
that the configuration asks for, and at least two where the seed changes the number. So losing seeds
never turns a "no" into a "yes", whatever the numbers are: a table from which seeds were lost says
"no verdict". No rule that looks at the remaining numbers alone can promise this. Seeds that happen
to agree have a small spread, and a lost one may have been the one that failed to learn: trainings
that diverge are lost more often than others. Nor is a run that is still under way judged, so that
nobody stops at the look that pleases. The interval of the seeds that are there is still shown; it
covers what it says, see `partbench.metrics.paired`.

Between configurations that ask for different numbers of seeds there is no such certainty, only a
rate: where there is no difference, a "yes" is given in at most 2.5 % of cases at every number of
seeds, and with the same differences and the same spread, fewer seeds always give the larger p.

**Which floors a method must beat.** The floor controls of its task, such as raw pixels or the mean
shape, which every method there must beat; and its own network before training. The untrained
network of another method is no bar: it may have an architecture that this method does not claim
to surpass.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

LEVEL = 0.05
"""Corrected p values below it are differences."""
UNTRAINED = "untrained"
"""The part of a variant that trains on no image."""
METHOD_ALONE = "the method has one seed"
OTHER_ALONE = "the other has one seed"
BOTH_ALONE = "both have one seed"
METHOD_INCOMPLETE = "the method lacks seeds"
OTHER_INCOMPLETE = "the other lacks seeds"
BOTH_INCOMPLETE = "both lack seeds"
OTHER_FAILED = "the other has no number"
UNDEFINED = "a seed has no finite number"
NOTHING_TO_TEST = "neither has a spread: no outcome by sample, and the seed changes nothing"

Outcome = Literal["better", "same", "worse", "untested"]
State = Literal["beats", "mixed", "unknown"]
"""Beats every floor; does not beat one; some test is missing, and it beats the rest."""
Relation = Literal["floor", "self", "method"]
"""What a method is compared with: a floor control, its own untrained network, another method."""


class Seeds(NamedTuple):
    """The seeds behind a number of a method."""

    random: bool
    """Whether the seed changes the number."""
    measured: int
    asked: int
    """Those of the configuration, whatever became of them."""

    @property
    def alone(self) -> bool:
        """Whether there is one seed where it would take several to see their spread."""
        return self.random and self.measured == 1

    @property
    def incomplete(self) -> bool:
        """Whether a seed is missing that may have given another number."""
        return self.random and self.measured < self.asked


def why_untested(method: Seeds, other: Seeds) -> str:
    """Return why two methods get no verdict, empty if they get one."""
    for one, two, both, lacks in (
        (METHOD_ALONE, OTHER_ALONE, BOTH_ALONE, [method.alone, other.alone]),
        (
            *(METHOD_INCOMPLETE, OTHER_INCOMPLETE, BOTH_INCOMPLETE),
            [method.incomplete, other.incomplete],
        ),
    ):
        if any(lacks):
            return both if all(lacks) else one if lacks[0] else two
    return ""


def outcome(comparison: Mapping[Any, Any], better: str) -> Outcome:
    """Return how a method stands to what it is compared with.

    Args:
        comparison: a row of `partbench.comparisons`.
        better: "higher" or "lower".
    """
    if comparison["reason"] or not math.isfinite(comparison["p_holm"]):
        return "untested"
    if comparison["p_holm"] >= LEVEL:
        return "same"
    return "better" if (comparison["difference"] > 0) == (better == "higher") else "worse"


def state(outcomes: Collection[Outcome]) -> State:
    """Return whether a method beats all of its floors, of its outcomes against each of them."""
    if {"same", "worse"} & set(outcomes):
        return "mixed"
    return "beats" if outcomes and "untested" not in outcomes else "unknown"


def own_untrained(variant: str, untrained: Sequence[str]) -> str | None:
    """Return the variant that is a method's own network before training, if it was measured.

    Untrained variants have the part `untrained`. Of those whose other parts are all parts of the
    method's variant, it is the one with the most: `demo+beta` has `demo+beta+untrained`, else
    `demo+untrained`, but never `k30+untrained`, which is another network.

    Args:
        variant: of the trained method.
        untrained: variants of the same method that were not trained.
    """
    own = _parts(variant)
    fitting = [name for name in untrained if _parts(name) - {UNTRAINED} <= own]
    return max(fitting, key=lambda name: len(_parts(name)), default=None)


def relations(
    method: str, variant: str, floors: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Relation]:
    """Return the floors that a method must beat, see the head of this module.

    Args:
        method: its name.
        variant: its variant.
        floors: (method, variant) of the controls with the role of a floor, on the same task.
    """
    own = own_untrained(variant, [v for m, v in floors if m == method and is_untrained(v)])
    return {
        (name, of_floor): "self" if is_untrained(of_floor) else "floor"
        for name, of_floor in floors
        if not is_untrained(of_floor) or (name, of_floor) == (method, own)
    }


def is_untrained(variant: str) -> bool:
    """Whether a variant is a method's network before training."""
    return UNTRAINED in _parts(variant)


def outcome_of_gain(row: Mapping[Any, Any], asked: int) -> Outcome:
    """Return the outcome of a number that is itself a gain over a floor, sample by sample.

    Such a number is positive where the method is better than the floor, so its 95 % interval is
    the test. It needs the same seeds as any comparison.

    Args:
        row: of the summary, with `low`, `high`, `seeds`, `random`, `better`.
        asked: seeds that the configuration asks for.
    """
    seeds = Seeds(bool(row["random"]), int(row["seeds"]), asked)
    if seeds.alone or seeds.incomplete or not math.isfinite(row["low"] + row["high"]):
        return "untested"
    if row["low"] <= 0 <= row["high"]:
        return "same"
    return "better" if (row["low"] > 0) == (row["better"] == "higher") else "worse"


def _parts(variant: str) -> set[str]:
    return set(variant.split("+")) - {"paper"}
