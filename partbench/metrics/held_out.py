"""Which training samples are held out to choose a setting."""

import numpy as np
from numpy.typing import NDArray

from partbench.errors import BadInput


def draw_held_out(
    codes: NDArray[np.int64],
    fraction: float,
    rng: np.random.Generator,
    groups: NDArray[np.integer] | None = None,
) -> NDArray[np.bool_]:
    """Return a mask [n] of the samples that are held out, some of each class but never all.

    Args:
        codes: [n] class indices from 0.
        fraction: of each class that is held out, at least one sample.
        rng: of the draw.
        groups: [n]; samples of one group, such as clips of one film, are held out together,
            since they resemble each other. A class then has up to a group more held out, and none
            where it has a single group.
    """
    held = np.zeros(len(codes), dtype=bool)
    if groups is not None:
        totals = np.bincount(codes)
        wanted = np.maximum(1, np.round(fraction * totals))
        taken = np.zeros(len(totals), dtype=np.int64)
        for group in rng.permutation(np.unique(groups)):
            members = np.flatnonzero(groups == group)
            own = np.bincount(codes[members], minlength=len(totals))
            there = own > 0
            after = (taken + own)[there]
            if (taken < wanted)[there].all() and (after < totals[there]).all():
                held[members] = True
                taken += own
        return held
    for code in range(codes.max() + 1):
        members = np.flatnonzero(codes == code)
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held[rng.permutation(members)[:count]] = True
    return held


def hold_out(
    codes: NDArray[np.int64],
    fraction: float,
    rng: np.random.Generator,
    groups: NDArray[np.integer] | None,
    where: str,
) -> NDArray[np.bool_]:
    """Return what `draw_held_out` does, of which there must be some.

    Args:
        codes, fraction, rng, groups: see `draw_held_out`.
        where: the samples come from, for the message.

    Raises:
        BadInput: no sample can be held out.
    """
    held = draw_held_out(codes, fraction, rng, groups)
    if not held.any():
        units = "sample" if groups is None else "group"
        raise BadInput(
            f"{where}: every class has a single {units}, so none can be held out to choose a "
            f"setting; give at least two {units}s of some class."
        )
    return held
