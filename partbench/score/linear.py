"""The linear probe's ruler: a linear classifier on features that partbench did not make."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partbench.errors import BadInput
from partbench.metrics.accuracy import wilson_interval
from partbench.metrics.feature_blocks import check_features, check_finite, check_labels
from partbench.metrics.intervals import by_group, over_seeds_and_samples
from partbench.probes.linear import VERSION, LinearSettings, check_folds, linear_probe, svm_of
from partbench.probes.svm import SvmResult
from partbench.score import arrays

KEYS = ("features", "labels")
OPTIONAL = ("folds", "groups")


@dataclass(frozen=True)
class FeatureFile:
    """What a feature file holds: features [N, D], labels [N]; folds [F, n] and groups [N] or None.

    Samples of one group, such as clips of one film, are not independent.
    """

    features: NDArray
    labels: NDArray[np.integer]
    folds: NDArray[np.integer] | None
    groups: NDArray[np.integer] | None


def load_features(path: Path, need_folds: bool = False) -> FeatureFile:
    """Read features from an npz file.

    Args:
        path: npz with `features` [N, D] numbers, `labels` [N] integers, perhaps `groups` [N]
            integers and, for training, `folds` [F, n] indices into the samples; other arrays are
            ignored.
        need_folds: refuse a file without folds.

    Raises:
        BadInput: see `arrays.read`; an array of the wrong shape or type; features that are not
            finite; a label below 0.
    """
    required = (*KEYS, "folds") if need_folds else KEYS
    read = arrays.read(path, required, tuple(key for key in OPTIONAL if key not in required))
    features, labels, folds = read["features"], read["labels"], read.get("folds")
    groups = read.get("groups")
    if groups is not None:
        check_labels(groups, len(features), f"{path}: groups")
    check_features(features, f"{path}: features")
    check_finite(features, f"{path}: features")
    check_labels(labels, len(features), f"{path}: labels")
    if (below := np.flatnonzero(labels < 0)).size:
        raise BadInput(
            f"{path}: labels: row {below[0]} is {labels[below[0]]}; number the classes from 0, and "
            "leave samples without a class out"
        )
    if folds is not None:
        if folds.ndim != 2:
            raise BadInput(f"{path}: folds has shape {list(folds.shape)}; expected [folds, n].")
        check_folds(folds, len(features), f"{path}: folds")
    return FeatureFile(features, labels, folds, groups)


def _check_classes(
    train: FeatureFile, test: FeatureFile, train_path: Path, test_path: Path
) -> None:
    for i, fold in enumerate([slice(None)] if train.folds is None else train.folds):
        unseen = ~np.isin(test.labels, train.labels[fold])
        if unseen.any():
            classes = np.unique(test.labels[unseen])
            where = train_path if train.folds is None else f"fold {i} of {train_path}"
            raise BadInput(
                f"{test_path}: {unseen.sum()} of {len(unseen)} samples have a class that {where} "
                f"lacks, such as {classes[0]}, and count as wrong whatever the features; leave "
                "them out, or number the classes of both files alike"
            )


def score(
    train_path: Path,
    test_path: Path,
    settings: LinearSettings | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Run the linear probe on two feature files, with the folds of the first if it has any.

    Returns:
        What a result file holds, ready for `json.dumps`; accuracies are in %. The 95 % interval
        is Wilson's over test samples at the mean accuracy; with folds it errs on the wide side,
        since a sample's mean outcome varies less than a single one. With groups of test samples
        it is Student's over groups. With `solver: svm`, the value is that at the given C, and
        `held_out_c` holds that at the chosen one.

    Raises:
        BadInput: as `load_features` and `linear_probe`; a test sample of a class that a fold's
            training samples lack, since no classifier could reach 100 %.
    """
    settings = settings or LinearSettings()
    train, test = load_features(train_path), load_features(test_path)
    _check_classes(train, test, train_path, test_path)
    given = (train.features, train.labels, test.features, test.labels, train.folds, settings, seed)
    try:
        if settings.solver == "svm":
            machines = svm_of(*given, train.groups)
            return _of_machines(machines, settings, train, test, seed)
        result = linear_probe(*given, train.groups)
    except BadInput as error:
        raise BadInput(f"{train_path} and {test_path}: {error}") from None
    return {
        **_accuracy(result.correct.mean(0), test),
        "sd_over_folds": None if result.sd is None else 100 * result.sd,
        "per_fold": (100 * result.accuracy).tolist(),
        "top5": None if result.top5 is None else 100 * float(result.top5.mean()),
        "cs": list(result.cs),
        "chosen_c": result.chosen_c.tolist(),
        "c_on_border": result.c_on_border.tolist(),
        "held_out_accuracy": (100 * result.held_out_accuracy).tolist(),
        "n_train": result.n_train.tolist(),
        **_given(settings, train, test, seed),
    }


def accuracy_of(
    correct: NDArray[Any], groups: NDArray[np.integer] | None
) -> tuple[float, float, float]:
    """Return the accuracy and the two ends of its 95 % interval, in [0, 1].

    Args:
        correct: [N], outcomes by test sample, in [0, 1].
        groups: [N]; the interval is then Student's over groups, else Wilson's over samples.

    Raises:
        BadInput: all samples are of one group.
    """
    share = float(correct.mean())
    low, high = wilson_interval(share, len(correct))
    if groups is not None:
        draws = by_group(correct[None], groups)
        if draws.shape[1] < 2:
            raise BadInput("the test samples are of one group, which shows no spread; leave it out")
        _, low, high = over_seeds_and_samples(draws)
    return share, max(low, 0.0), min(high, 1.0)


def _accuracy(correct: NDArray[np.float64], test: FeatureFile) -> dict[str, Any]:
    """Return the accuracy with its interval, of outcomes [N] by test sample."""
    share, low, high = accuracy_of(correct, test.groups)
    groups = {} if test.groups is None else {"n_groups": len(np.unique(test.groups))}
    return {
        "probe": "linear",
        "version": VERSION,
        "metric": "top-1 accuracy",
        "unit": "%",
        "direction": "higher is better",
        "value": 100 * share,
        "interval95": [100 * low, 100 * high],
        **groups,
    }


def _of_machines(
    result: SvmResult, settings: LinearSettings, train: FeatureFile, test: FeatureFile, seed: int
) -> dict[str, Any]:
    """Return the result of `solver: svm`."""
    classes = np.unique(np.concatenate([train.labels, test.labels]))
    codes = np.searchsorted(classes, test.labels)
    coded = [
        replace(outcome, predicted=np.searchsorted(classes, outcome.predicted))
        for outcome in (result.fixed, result.chosen)
    ]
    details = replace(result, fixed=coded[0], chosen=coded[1]).details(codes, classes.tolist())
    chosen = _accuracy(result.chosen.correct, test)
    return {
        **_accuracy(result.fixed.correct, test),
        "held_out_c": {key: chosen[key] for key in ("value", "interval95")},
        "cs": list(settings.cs),
        **details,
        "n_train": result.n_train.tolist(),
        **_given(settings, train, test, seed),
    }


def _given(
    settings: LinearSettings, train: FeatureFile, test: FeatureFile, seed: int
) -> dict[str, Any]:
    return {
        "n_test": len(test.labels),
        "n_features": train.features.shape[1],
        "seed": seed,
        "settings": settings.model_dump(mode="json"),
    }
