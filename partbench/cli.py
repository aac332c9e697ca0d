"""The command line: commands for people, and the stages that the DAG's rules call."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from partbench import __version__
from partbench.errors import BadInput
from partbench.settings import json_object
from partbench.stages import add_stages


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status.

    0: done. 1: something the user gave is wrong; one message says what. 75: a signal stopped a
    training; running the same command again resumes it.
    """
    args = _parser().parse_args(arguments)
    began = time.monotonic()
    try:
        args.run(args)
        if args.stage:
            from partbench.jobs import FINISHED

            print(f"{FINISHED} {time.monotonic() - began:.1f} s", file=sys.stderr)
    except BadInput as error:
        print(f"partbench: {error}", file=sys.stderr)
        if args.stage:
            from partbench.integrity import Damaged

            if isinstance(error, Damaged):
                print(f"partbench: {error.set_aside()}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever reads our output, such as head, has gone
        sys.stderr.close()
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="partbench", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        new = commands.add_parser(name, help=text, description=text)
        new.set_defaults(run=run, stage=False)
        return new

    plan = command("plan", _plan, "Print the cells, GPU hours and disk of a configuration.")
    plan.add_argument("config", type=Path, nargs="?", default=Path("config/paper.yaml"))
    plan.add_argument("--tflops", type=float, default=10.0, help="assumed sustained TFLOP/s")

    check = command("check", _check, "List what this machine has and lacks for a configuration.")
    check.add_argument("config", type=Path, nargs="?", default=Path("config/paper.yaml"))

    published = command(
        "published", _published, "Say which published numbers a configuration is held against."
    )
    published.add_argument("config", type=Path, nargs="?", default=Path("config/paper.yaml"))

    verify = command("verify", _verify, "Compare all files of a results folder with checksums.")
    verify.add_argument("results", type=Path, help="such as results/demo")
    verify.add_argument(
        "--repair",
        action="store_true",
        help="move what is damaged aside, so that the workflow makes it anew",
    )

    ending = command("outcome", _outcome, "Say which cells are done, failed or skipped, and why.")
    ending.add_argument("results", type=Path, help="such as results/demo")

    command("unlock", _unlock, "Remove the lock that a killed Snakemake left in this folder.")

    data = command("data", None, "List, fetch, check and look at data sets.")
    verbs = data.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        new = verbs.add_parser(name, help=text, description=text)
        new.set_defaults(run=run)
        return new

    verb("list", _data_list, "Print all data sets, their sizes and licences.")
    fetching = verb("fetch", _data_fetch, "Fetch, verify and unpack official files.")
    fetching.add_argument("names", nargs="+", metavar="NAME")
    checking = verb(
        "check", _data_check, "List what is present, what is missing, and how to get it."
    )
    checking.add_argument("names", nargs="*", metavar="NAME")
    changing = verb("changed", _data_changed, "Tell which data sets changed after preparation.")
    changing.add_argument("config", type=Path, nargs="?", default=Path("config/paper.yaml"))
    changing.add_argument(
        "--contents",
        action="store_true",
        help="read every file, even if names, sizes and times are the same",
    )
    copying = verb("as-stl10", _data_as_stl10, "Write images in the layout of STL-10.")
    copying.add_argument("folder", type=Path, help="with train/, test/ and perhaps unlabeled/")
    showing = verb("show", _data_show, "Write a contact sheet, annotations drawn on.")
    showing.add_argument("name", metavar="NAME")
    showing.add_argument("--settings", default="{}", help="the reader's settings, json")
    showing.add_argument("--out", type=Path, help="png file; default NAME.png")

    score = command("score", None, "Measure outputs that partbench did not make; prints json.")
    rulers = score.add_subparsers(required=True, metavar="PROBE")

    def ruler(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        new = rulers.add_parser(name, help=text, description=text)
        new.add_argument("files", type=Path, nargs="+", metavar="FILE.npz")
        new.add_argument("--seed", type=int, default=0)
        new.set_defaults(run=run)
        return new

    linear = ruler("linear", _score_linear, "A linear classifier on features.")
    linear.add_argument("--settings", default="{}", help="the probe's settings, json")
    linear.add_argument(
        "--solver", choices=["logistic", "svm"], help="instead of the settings'; default: logistic"
    )
    landmarks = ruler("landmarks", _score_landmarks, "Landmarks by least squares from keypoints.")
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
    labelled = ruler("parts", _score_parts, "Parts against labels by NMI, ARI and IoU.")
    labelled.add_argument("--ignore", type=int, metavar="LABEL", help="a true label to leave out")

    generated = ruler(
        "generation", _score_generation, "Generated images against real ones, both as sets."
    )
    generated.add_argument("--network", help="whose features are compared; default: inception")
    generated.add_argument("--resize", help="ttur, pytorch or clean; default: the network's usual")
    generated.add_argument("--images", type=int, help="of each folder, the first; default: all")
    generated.add_argument("--few", action="store_true", help="measure few images, too")
    generated.add_argument(
        "--only-distance", action="store_true", help="the Frechet distance alone, which is faster"
    )
    generated.add_argument("--settings", default="{}", help="the probe's other settings, json")
    scored = ruler("is", _score_is, "The Inception Score of logits or probabilities.")
    scored.add_argument("--splits", type=int, default=10, help="parts of the images")

    moving = command("move", _move, "Move a particle of a test image; writes an animation.")
    moving.add_argument("model", type=Path, metavar="MODEL.pt")
    moving.add_argument("data", type=Path, help="folder of the prepared data set")
    moving.add_argument("--image", type=int, default=0, help="which test image")
    moving.add_argument("--particle", type=int, help="default: the one with the least variance")
    moving.add_argument("--reach", type=float, default=0.4, help="in halves of the window's side")
    moving.add_argument("--out", type=Path, default=Path("moved.webp"), help="webp or gif file")

    add_stages(commands)
    return parser


# Each command imports what it needs, so that none waits for torch without need.


def _plan(args: argparse.Namespace) -> None:
    from partbench import config, plan, published

    judged = {c.cells[:3] for c in published.load() if c.is_judged and plan.draws(c)}
    print(plan.plan(config.read(args.config), args.tflops, judged))


def _check(args: argparse.Namespace) -> None:
    from partbench import config, plan

    print(plan.check(config.read(args.config)))


def _published(args: argparse.Namespace) -> None:
    from partbench import config, published

    addresses = config.addresses(config.read(args.config))
    print(published.coverage(published.load(), (published.CellAddress(*a) for a in addresses)))


def _verify(args: argparse.Namespace) -> None:
    from partbench import verify
    from partbench.integrity import Damaged

    table, faults = verify.report(args.results)
    print(table)
    if faults:
        asides = [f.set_aside() for f in faults if args.repair and isinstance(f, Damaged)]
        raise BadInput("\n".join(dict.fromkeys([*map(str, faults), *asides])))


def _outcome(args: argparse.Namespace) -> None:
    from partbench import config, outcome
    from partbench.integrity import read_record

    where = args.results / "config.json"
    print(outcome.outcome(config.check(read_record(where), str(where)), args.results))


def _unlock(args: argparse.Namespace) -> None:
    from partbench.unlock import unlock

    if unlock():
        print("removed the lock of a Snakemake that was killed", file=sys.stderr)


def _data_list(args: argparse.Namespace) -> None:
    from partbench.data import catalogue
    from partbench.files import data_root

    print(catalogue.listing(data_root()))


def _data_fetch(args: argparse.Namespace) -> None:
    from partbench.data.archives import archives
    from partbench.data.fetch import fetch
    from partbench.files import data_root

    files = {file.name: file for name in args.names for file in archives(name)}
    fetch(list(files.values()), data_root())


def _data_check(args: argparse.Namespace) -> None:
    from partbench.data import catalogue
    from partbench.files import data_root

    text, whole = catalogue.report(args.names, data_root())
    print(text)
    if not whole:
        raise SystemExit(1)


def _data_changed(args: argparse.Namespace) -> None:
    from partbench import config
    from partbench.data import catalogue
    from partbench.files import data_root

    settings = config.read(args.config)
    changed = False
    for name in settings.data:
        prepared = Path("results") / settings.name / "data" / name
        if not (prepared / "meta.json").exists():
            print(f"{name}: not prepared")
        elif catalogue.have_changed(prepared, data_root(), args.contents):
            changed = True
            print(f"{name}: its files changed after they were prepared; run again")
        else:
            print(f"{name}: as prepared")
    if changed:
        raise SystemExit(1)


def _data_as_stl10(args: argparse.Namespace) -> None:
    from partbench.data.stl10_layout import write_as_stl10
    from partbench.files import data_root

    print(write_as_stl10(args.folder, data_root()))


def _data_show(args: argparse.Namespace) -> None:
    from partbench.data import catalogue
    from partbench.files import data_root

    out = args.out or Path(f"{args.name}.png")
    catalogue.show(args.name, data_root(), json_object(args.settings, "--settings"), out)
    print(out)


def _score_linear(args: argparse.Namespace) -> None:
    from partbench.probes.linear import LinearSettings
    from partbench.score import linear

    values = json_object(args.settings, "--settings")
    values |= {"solver": args.solver} if args.solver else {}
    settings = LinearSettings.parse(values, "--settings")
    _print(linear.score(*_train_and_test(args), settings, args.seed), args)


def _score_landmarks(args: argparse.Namespace) -> None:
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


def _score_parts(args: argparse.Namespace) -> None:
    from partbench.score import parts

    (file,) = _files(args, 1, "score parts takes one file, FILE.npz")
    _print(parts.score(file, ignore=args.ignore, seed=args.seed), args)


def _score_generation(args: argparse.Namespace) -> None:
    from partbench.probes.generation import GenerationSettings
    from partbench.score import generation

    generated, real = _files(args, 2, "score generation takes two folders or files: GENERATED REAL")
    options = ("network", "resize", "images", "few", "only_distance")
    given = {key: value for key in options if (value := getattr(args, key)) not in (None, False)}
    values = json_object(args.settings, "--settings") | given
    settings = GenerationSettings.parse(values, "score generation")
    _print(generation.score(generated, real, settings, args.seed), args)


def _score_is(args: argparse.Namespace) -> None:
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


def _move(args: argparse.Namespace) -> None:
    from partbench.manipulate import move

    which = move(args.model, args.data, args.image, args.particle, args.reach, args.out)
    print(f"{args.out}: particle {which} of test image {args.image}")
