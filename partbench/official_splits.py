"""The mean over the official splits of a data set, such as the three of UCF101: its own number."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from partbench.config import Config, cells, data_settings, load_reader


def split_means(config: Config) -> dict[str, list[str]]:
    """Return the data sets of which the configuration has all official splits.

    The data sets `ucf101-1`, `ucf101-2` and `ucf101-3`, alike but for `fold`, are the splits of
    `ucf101`: a name -> those of its splits, in order. Data sets that repeat others are splits if
    they repeat splits, alike but for their numbers.
    """
    means = {}
    for name in config.data:
        whole, _, number = name.rpartition("-")
        splits = load_reader(config, name).official_splits
        names = [f"{whole}-{i}" for i in range(1, splits + 1)]
        if (
            number != "1"
            or not splits
            or whole in config.data
            or not config.data.keys() >= {*names}
        ):
            continue
        settings = [data_settings(config, split).model_dump() for split in names]
        expected = [settings[0] | {"fold": i} for i in range(1, splits + 1)]
        one_reader = len({load_reader(config, split) for split in names}) == 1
        rules = [_without_split(config.data[split], i) for i, split in enumerate(names, 1)]
        one_rule = "reader" in rules[0] or all(rule == rules[0] for rule in rules)
        if settings == expected and one_reader and one_rule:
            means[whole] = names
    return means


def _without_split(rule: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return how a data set repeats another one, without the split's number in names."""
    return {
        key: re.sub(rf"-{number}(?=/|$)", "", value) if isinstance(value, str) else value
        for key, value in rule.items()
        if key != "fold"
    }


def trained_on(train: str, evaluated: str, means: Mapping[str, Sequence[str]]) -> str:
    """Return the data set that a run counts as trained on where the mean over splits is taken.

    A run that was trained on a split and measured on one of the same number counts as trained on
    the whole; any other run, on what it was.

    Args:
        train: the training data.
        evaluated: an official split.
        means: data set -> its official splits.
    """
    places = {name: (whole, i) for whole, names in means.items() for i, name in enumerate(names)}
    whole, place = places.get(train, (train, -1))
    return whole if place == places[evaluated][1] else train


def addresses(config: Config) -> list[tuple[str, str, str, str, str]]:
    """Return method, variant, train, eval and probe of all numbers, once.

    They are those of the cells that fit and, where all official splits of a data set are measured,
    of their mean; a run on each split is a run on the whole.
    """
    measured = {(*cell.run[:3], cell.eval, cell.probe) for cell in cells(config) if not cell.skip}
    found = dict.fromkeys(sorted(measured))
    means = split_means(config)
    for whole, names in means.items():
        for method, variant, train, evaluated, probe in sorted(measured):
            if evaluated != names[0]:
                continue
            counted = trained_on(train, evaluated, means)
            trains = means[counted] if counted != train else [train] * len(names)
            parts = [(method, variant, *pair, probe) for pair in zip(trains, names, strict=True)]
            if measured.issuperset(parts):
                found[method, variant, counted, whole, probe] = None
    return list(found)
