"""Measure outputs that partbench did not make; prints json."""

import argparse
import json
from pathlib import Path
from typing import Any

from partbench.errors import BadInput
from partbench.settings import json_object


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the rulers."""
    rulers = parser.add_subparsers(required=True, metavar="PROBE")

    def ruler(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        new = rulers.add_parser(name, help=text, description=text)
        new.add_argument("files", type=Path, nargs="+", metavar="FILE.npz")
        new.add_argument("--seed", type=int, default=0)
        new.set_defaults(run=run)
        return new

    linear = ruler("linear", _linear, "A linear classifier on features.")
    linear.add_argument("--settings", default="{}", help="the probe's settings, json")
    linear.add_argument(
        "--solver", choices=["logistic", "svm"], help="instead of the settings'; default: logistic"
    )
    landmarks = ruler("landmarks", _landmarks, "Landmarks by least squares from keypoints.")
    landmarks.add_argument(
        "--protocol",
        choices=["mafl", "cub"],
        default="mafl",
        help="mafl: landmarks 0 and 1 are the eyes; cub: shares of the box, standardised fits; it "
        "has none of the options below",
    )
    landmarks.add_argument("--normaliser", choices=["iod", "box", "image"], help="default: iod")
    landmarks.add_argument("--side", type=float, help="of the image, for --normaliser image")
    landmarks.add_argument(
        "--intercept", action=argparse.BooleanOptionalAction, help="default: no, as the papers"
    )
    landmarks.add_argument(
        "--few-shot", dest="curve", action=argparse.BooleanOptionalAction, help="default: yes"
    )
    labelled = ruler("parts", _parts, "Parts against labels by NMI, ARI and IoU.")
    labelled.add_argument(
        "--ignore",
        type=int,
        metavar="LABEL",
        action="append",
        help="a true label to leave out; may be given several times",
    )
    labelled.add_argument(
        "--background",
        type=int,
        metavar="LABEL",
        help="the true label of the background: numbers of the foreground alone follow as fg_nmi, "
        "fg_ari and so on",
    )

    generated = ruler(
        "generation", _generation, "Generated images against real ones, both as sets."
    )
    generated.add_argument("--network", help="whose features are compared; default: inception")
    generated.add_argument("--resize", help="ttur, pytorch or clean; default: the network's usual")
    generated.add_argument("--images", type=int, help="of each folder, the first; default: all")
    generated.add_argument("--few", action="store_true", help="measure few images, too")
    generated.add_argument(
        "--only-distance", action="store_true", help="the Frechet distance alone, which is faster"
    )
    generated.add_argument("--settings", default="{}", help="the probe's other settings, json")
    scored = ruler("is", _is, "The Inception Score of logits or probabilities.")
    scored.add_argument("--splits", type=int, default=10, help="parts of the images")


def _linear(args: argparse.Namespace) -> None:
    from partbench.probes.linear import LinearSettings
    from partbench.score import linear

    values = json_object(args.settings, "--settings")
    values |= {"solver": args.solver} if args.solver else {}
    settings = LinearSettings.parse(values, "--settings")
    _print(linear.score(*_train_and_test(args), settings, args.seed), args)


def _landmarks(args: argparse.Namespace) -> None:
    from partbench.score import cub, landmarks

    given = {
        key: value
        for key in ("intercept", "normaliser", "side", "curve")
        if (value := getattr(args, key)) is not None
    }
    if args.protocol == "cub":
        if given:
            raise BadInput(
                "--protocol cub has no options but --seed: its errors are shares of the box, its "
                "fits are standardised"
            )
        result = cub.score(*_train_and_test(args), seed=args.seed)
    else:
        result = landmarks.score(*_train_and_test(args), **given, seed=args.seed)
    _print(result, args)


def _parts(args: argparse.Namespace) -> None:
    from partbench.score import parts

    (file,) = _files(args, 1, "score parts takes one file, FILE.npz")
    ignore, background = tuple(args.ignore or ()), args.background
    _print(parts.score(file, ignore=ignore, background=background, seed=args.seed), args)


def _generation(args: argparse.Namespace) -> None:
    from partbench.probes.generation import GenerationSettings
    from partbench.score import generation

    generated, real = _files(args, 2, "score generation takes two folders or files: GENERATED REAL")
    options = ("network", "resize", "images", "few", "only_distance")
    given = {key: value for key in options if (value := getattr(args, key)) not in (None, False)}
    values = json_object(args.settings, "--settings") | given
    settings = GenerationSettings.parse(values, "score generation")
    _print(generation.score(generated, real, settings, args.seed), args)


def _is(args: argparse.Namespace) -> None:
    from partbench.score import inception_score

    (file,) = _files(args, 1, "score is takes one file, FILE.npz")
    _print(inception_score.score(file, splits=args.splits, seed=args.seed), args)


def _train_and_test(args: argparse.Namespace) -> tuple[Path, Path]:
    train, test = _files(args, 2, "score takes two files: TRAIN.npz TEST.npz")
    return train, test


def _files(args: argparse.Namespace, number: int, usage: str) -> list[Path]:
    from partbench.run import check_seed

    check_seed(args.seed, "--seed")
    if len(args.files) != number:
        raise BadInput(usage)
    files: list[Path] = args.files
    return files


def _print(result: dict[str, Any], args: argparse.Namespace) -> None:
    try:
        text = json.dumps(result, indent=1, allow_nan=False)
    except ValueError:
        raise BadInput(
            f"{' and '.join(map(str, args.files))}: a number of the result is not finite; the "
            "values are too large, too small or all alike"
        ) from None
    print(text)
