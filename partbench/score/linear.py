"""The linear probe's ruler: a linear classifier on features that partbench did not make."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partbench.errors import BadInput
from partbench.metrics.accuracy import wilson_interval
from partbench.metrics.feature_blocks import check_features, check_finite, check_labels
from partbench.probes.linear import LinearSettings, check_folds, linear_probe
from partbench.score import arrays

KEYS = ("features", "labels", "folds")


@dataclass(frozen=True)
class FeatureFile:
    """What a feature file holds: features [N, D], labels [N] and folds [F, n] or None."""

    features: NDArray
    labels: NDArray[np.integer]
    folds: NDArray[np.integer] | None


def load_features(path: Path, need_folds: bool = False) -> FeatureFile:
    """Read features from an npz file.

    Args:
        path: npz with `features` [N, D] numbers, `labels` [N] integers and, for training, `folds`
            [F, n] indices into the samples; other arrays are ignored.
        need_folds: refuse a file without folds.

    Raises:
        BadInput: see `arrays.read`; an array of the wrong shape or type; features that are not
            finite; a label below 0.
    """
    number = len(KEYS) if need_folds else 2
    read = arrays.read(path, KEYS[:number], KEYS[number:])
    features, labels, folds = read["features"], read["labels"], read.get("folds")
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
    return FeatureFile(features, labels, folds)


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
        since a sample's mean outcome varies less than a single one.

    Raises:
        BadInput: as `load_features` and `linear_probe`; a test sample of a class that a fold's
            training samples lack, since no classifier could reach 100 %.
    """
    settings = settings or LinearSettings()
    train, test = load_features(train_path), load_features(test_path)
    _check_classes(train, test, train_path, test_path)
    try:
        result = linear_probe(
            train.features, train.labels, test.features, test.labels, train.folds, settings, seed
        )
    except BadInput as error:
        raise BadInput(f"{train_path} and {test_path}: {error}") from None
    low, high = wilson_interval(result.mean, len(test.labels))
    return {
        "probe": "linear",
        "version": result.version,
        "metric": "top-1 accuracy",
        "unit": "%",
        "direction": "higher is better",
        "value": 100 * result.mean,
        "interval95": [100 * low, 100 * high],
        "sd_over_folds": None if result.sd is None else 100 * result.sd,
        "per_fold": (100 * result.accuracy).tolist(),
        "top5": None if result.top5 is None else 100 * float(result.top5.mean()),
        "cs": list(result.cs),
        "chosen_c": result.chosen_c.tolist(),
        "c_on_border": result.c_on_border.tolist(),
        "held_out_accuracy": (100 * result.held_out_accuracy).tolist(),
        "n_train": result.n_train.tolist(),
        "n_test": len(test.labels),
        "n_features": train.features.shape[1],
        "seed": seed,
        "settings": settings.model_dump(mode="json"),
    }
