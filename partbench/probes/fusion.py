"""Late fusion: the scores of classifiers of two streams of the same clips, added up.

Two-stream methods describe a clip by its frames and by its optical flow. Each stream has support
vector machines of its own, see `partbench.probes.svm`, and a clip belongs to the class whose scores
have the greatest sum. The run that is measured is the first stream; the data set brings the other,
the features of another run (`stream`, see `partbench.second_stream`).
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from partbench.data.prepared import Prepared
from partbench.metrics.accuracy import label_ranks
from partbench.metrics.feature_blocks import linear_scores
from partbench.metrics.svm import Loss
from partbench.outputs.features import read as read_features
from partbench.probe import Numbers, Probe, Result, Setting
from partbench.probes.svm import FittedMachines, check_classes, fit_machines
from partbench.settings import Settings


class FusionSettings(Settings):
    """Settings of the probe; those of the machines are the same for both streams."""

    loss: Loss = Field("hinge", description="of the machines")
    c: float = Field(100.0, gt=0, description="of the machines; action recognition's custom")
    cs: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = Field(
        (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0),
        description="C's of which held-out samples choose one, for each stream its own",
    )
    held_out: float = Field(
        0.2, gt=0, lt=1, description="share of each class's training samples that choose C"
    )
    standardize: bool = Field(False, description="divide features by their standard deviation")
    weight: float = Field(
        1.0, gt=0, description="of the second stream's scores; those of the first have 1"
    )


class FusionSetting(Setting):
    """What tells numbers of a metric apart."""

    svm: Loss
    c: float | None = Field(None, description="none: chosen on held-out training samples")
    stream: Literal["first", "second"] | None = Field(None, description="none: both")


class Fusion(Probe):
    """Late fusion of a run's features with those of another stream."""

    Settings = FusionSettings
    Setting = FusionSetting
    references = ("simonyan2014twostream",)
    version = 1
    needs = ("features",)

    @classmethod
    def random(cls, metric: str) -> bool:
        """Return true: the seed draws the held-out samples that choose C."""
        return True

    @classmethod
    def annotations(cls, settings: Any) -> tuple[tuple[str, ...], ...]:
        """Return what the data must have; see `Probe.annotations`."""
        return (("labels",), ("stream",))

    def run(self, source: Path, data: Path, settings: Any, seed: int, device: str) -> Result:
        """Measure the features in `source`; see `Probe.run`."""
        train, test = (Prepared(data).split(split) for split in ("train", "test"))
        labels, truth = (np.array(split.annotation("labels")) for split in (train, test))
        check_classes(labels, truth, "training samples")
        groups = np.array(train.annotation("groups")) if train.has("groups") else None
        streams = {
            "first": [read_features(source, split.name, len(split)) for split in (train, test)],
            "second": [split.annotation("stream") for split in (train, test)],
        }
        fits: dict[str, FittedMachines] = {}
        scores: dict[str, list[NDArray[np.float64]]] = {}
        for name, (of_train, of_test) in streams.items():
            s = settings
            fits[name] = fit_machines(
                *(of_train, labels, groups, s.c, s.cs, s.loss, s.held_out, s.standardize, seed),
                f"training samples of the {name} stream",
            )
            scores[name] = [linear_scores(of_test, *model) for model in fits[name].models]
        numbers = Numbers("%", "higher")
        for way, c in enumerate((settings.c, None)):
            first, second = scores["first"][way], scores["second"][way]
            both = first + settings.weight * second
            for stream, of_stream in ((None, both), ("first", first), ("second", second)):
                ranks = label_ranks(of_stream, truth, fits["first"].classes)
                setting = FusionSetting(svm=settings.loss, c=c, stream=stream)
                # That of the second stream belongs to the data, whatever is measured.
                told = stream == "second"
                numbers.add("top1", setting, ranks == 0, scale=100, reference=told)
        return numbers.result(
            {
                name: {
                    "features": streams[name][0].shape[1],
                    "chosen C": fit.chosen_c,
                    "duality gap": fit.gaps,
                    "held-out accuracy": (100 * fit.held_out_accuracy).tolist(),
                }
                for name, fit in fits.items()
            }
        )
