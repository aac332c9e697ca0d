"""The command line: commands for people, and the stages that the DAG's rules call."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from partbench import __version__
from partbench.errors import BadInput

CODE = "fingerprint of the code, to be written into the result; default: computed"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status.

    0: done. 1: something the user gave is wrong; one message says what. 75: a signal stopped a
    training; running the same command again resumes it.
    """
    args = _parser().parse_args(arguments)
    try:
        args.run(args)
    except BadInput as error:
        print(f"partbench: {error}", file=sys.stderr)
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
        new.set_defaults(run=run)
        return new

    plan = command("plan", _plan, "Print the cells, GPU hours and disk of a configuration.")
    plan.add_argument("config", type=Path, nargs="?", default=Path("config/paper.yaml"))
    plan.add_argument("--tflops", type=float, default=10.0, help="assumed sustained TFLOP/s")

    check = command("check", _check, "List what this machine has and lacks for a configuration.")
    check.add_argument("config", type=Path, nargs="?", default=Path("config/paper.yaml"))

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

    moving = command("move", _move, "Move a particle of a test image; writes an animation.")
    moving.add_argument("model", type=Path, metavar="MODEL.pt")
    moving.add_argument("data", type=Path, help="folder of the prepared data set")
    moving.add_argument("--image", type=int, default=0, help="which test image")
    moving.add_argument("--particle", type=int, help="default: the one with the least variance")
    moving.add_argument("--reach", type=float, default=0.4, help="in halves of the window's side")
    moving.add_argument("--out", type=Path, default=Path("moved.webp"), help="webp or gif file")

    configuration = command("configuration", _configuration, "Stage: write down a configuration.")
    configuration.add_argument("--json", required=True)
    configuration.add_argument("--out", type=Path, required=True)

    fetch = command("fetch", _fetch, "Stage: get a data set's official files.")
    fetch.add_argument("--data-set", required=True)
    fetch.add_argument("--reader", required=True)
    fetch.add_argument("--settings", required=True)
    fetch.add_argument("--files", default="", help="digest of the files placed by hand")
    fetch.add_argument("--out", type=Path, required=True)

    fetch_weights = command("fetch-weights", _fetch_weights, "Stage: get a trained network.")
    fetch_weights.add_argument("--name", required=True)
    fetch_weights.add_argument("--out", type=Path, required=True)

    prepare = command("prepare", _prepare, "Stage: decode a data set into arrays.")
    prepare.add_argument("--data-set", required=True)
    prepare.add_argument("--reader", required=True)
    prepare.add_argument("--settings", required=True)
    prepare.add_argument("--out", type=Path, required=True)
    prepare.add_argument("--workers", type=int, default=1)
    prepare.add_argument("--code", help=CODE)

    foreground = command(
        "foreground",
        _foreground,
        "Stage: repeat a data set with the foreground that a run predicts.",
    )
    foreground.add_argument("--data-set", required=True)
    foreground.add_argument("--model", type=Path, required=True)
    foreground.add_argument("--data", type=Path, required=True)
    foreground.add_argument("--runtime", default="{}")
    foreground.add_argument("--code", help=CODE)
    foreground.add_argument("--out", type=Path, required=True)

    train = command("train", _train, "Stage: train one run, or resume it.")
    train.add_argument("--run", dest="key", required=True, help="method/variant/train/seed")
    train.add_argument("--settings", required=True)
    train.add_argument("--runtime", default="{}")
    train.add_argument("--code", help=CODE)
    train.add_argument("--data", type=Path, required=True)
    train.add_argument("--out", type=Path, required=True)

    extract = command("extract", _extract, "Stage: write a run's outputs on a data set.")
    extract.add_argument("--model", type=Path, required=True)
    extract.add_argument("--data", type=Path, required=True)
    extract.add_argument("--needs", default="", help="what the probes read, separated by commas")
    extract.add_argument("--outputs", type=Path, required=True)
    extract.add_argument("--pictures", type=Path, required=True)
    extract.add_argument("--runtime", default="{}")

    probe = command("probe", _probe, "Stage: measure one cell.")
    probe.add_argument("probe")
    probe.add_argument("--run", dest="key", required=True, help="method/variant/train/seed")
    probe.add_argument("--source", type=Path, required=True)
    probe.add_argument("--data", type=Path, required=True)
    probe.add_argument("--settings", required=True)
    probe.add_argument("--runtime", default="{}")
    probe.add_argument("--code", help=CODE)
    probe.add_argument("--out", type=Path, required=True)

    report = command("report", _report, "Gather a results folder into tables and the page.")
    report.add_argument("--results", type=Path, required=True)
    report.add_argument("--out", type=Path, required=True)
    return parser


# Each command imports what it needs, so that none waits for torch without need.


def _plan(args: argparse.Namespace) -> None:
    from partbench import config, plan

    print(plan.plan(config.read(args.config), args.tflops))


def _check(args: argparse.Namespace) -> None:
    from partbench import config, plan

    print(plan.check(config.read(args.config)))


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


def _data_show(args: argparse.Namespace) -> None:
    from partbench.data import catalogue
    from partbench.files import data_root

    out = args.out or Path(f"{args.name}.png")
    catalogue.show(args.name, data_root(), _json(args.settings, "--settings"), out)
    print(out)


def _score_linear(args: argparse.Namespace) -> None:
    from partbench.probes.linear import LinearSettings
    from partbench.score import linear

    settings = LinearSettings.parse(_json(args.settings, "--settings"), "--settings")
    result = linear.score(*_train_and_test(args), settings, args.seed)
    print(json.dumps(result, indent=1))


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
    print(json.dumps(result, indent=1))


def _score_parts(args: argparse.Namespace) -> None:
    from partbench.score import parts

    if len(args.files) != 1:
        raise BadInput("score parts takes one file, FILE.npz")
    result = parts.score(args.files[0], ignore=args.ignore, seed=args.seed)
    print(json.dumps(result, indent=1))


def _train_and_test(args: argparse.Namespace) -> tuple[Path, Path]:
    if len(args.files) != 2:
        raise BadInput("score takes two files: TRAIN.npz TEST.npz")
    return args.files[0], args.files[1]


def _move(args: argparse.Namespace) -> None:
    from partbench.manipulate import move

    which = move(args.model, args.data, args.image, args.particle, args.reach, args.out)
    print(f"{args.out}: particle {which} of test image {args.image}")


def _configuration(args: argparse.Namespace) -> None:
    from partbench import config
    from partbench.files import write_json

    values = _json(args.json, "--json")
    config.check(values, "--json")
    write_json(args.out, values)


def _fetch(args: argparse.Namespace) -> None:
    from partbench.data import catalogue
    from partbench.files import write_json

    write_json(args.out, catalogue.provide(args.reader, _reader(args), args.files))


def _fetch_weights(args: argparse.Namespace) -> None:
    from partbench.data import fetch
    from partbench.data.archives import archives
    from partbench.files import data_root, write_json

    files = archives(args.name)
    fetch.fetch(files, data_root())
    write_json(args.out, {file.name: fetch.state(file, data_root()) for file in files})


def _prepare(args: argparse.Namespace) -> None:
    from partbench import fingerprint
    from partbench.data.prepare import prepare
    from partbench.data.prepared import Prepared
    from partbench.data.sheet import write_sheet

    code = args.code or fingerprint.of_preparation(args.reader)
    prepare(_reader(args), args.data_set, args.out, args.workers, code)
    write_sheet(Prepared(args.out), args.out / "sheet.png")


def _foreground(args: argparse.Namespace) -> None:
    from partbench import fingerprint
    from partbench.data.prepared import Prepared
    from partbench.data.sheet import write_sheet
    from partbench.foreground import find_foreground
    from partbench.model import device_of
    from partbench.run import Runtime

    runtime = Runtime.parse(_json(args.runtime, "--runtime"), "runtime")
    device = device_of(runtime)
    code = args.code or fingerprint.of_foreground()
    find_foreground(args.data_set, args.model, args.data, args.out, device, runtime.threads, code)
    write_sheet(Prepared(args.out), args.out / "sheet.png")


def _train(args: argparse.Namespace) -> None:
    from partbench import fingerprint, method
    from partbench.run import Runtime
    from partbench.train import Stopped, train

    run = _run(args.key)
    settings = method.load(run.method).Settings.parse(_json(args.settings, "--settings"), args.key)
    runtime = Runtime.parse(_json(args.runtime, "--runtime"), "runtime")
    code = args.code or fingerprint.of_training(run.method)
    try:
        train(run, settings, runtime, args.data, args.out, code)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        raise SystemExit(75) from None


def _extract(args: argparse.Namespace) -> None:
    from partbench.extract import extract
    from partbench.model import device_of
    from partbench.run import Runtime

    runtime = Runtime.parse(_json(args.runtime, "--runtime"), "runtime")
    device = device_of(runtime)
    needs = args.needs.split(",")
    extract(args.model, args.data, needs, args.outputs, args.pictures, device, runtime.threads)


def _probe(args: argparse.Namespace) -> None:
    from partbench import fingerprint, plugins
    from partbench.probe import Probe, measure
    from partbench.run import Runtime

    cls = plugins.load("probes", args.probe, Probe)  # type: ignore[type-abstract]
    settings = cls.Settings.parse(_json(args.settings, "--settings"), f"probes.{args.probe}")
    runtime = Runtime.parse(_json(args.runtime, "--runtime"), "runtime")
    code = args.code or fingerprint.of_probe(cls)
    measure(cls(), _run(args.key), args.source, args.data, settings, runtime, args.out, code)


def _report(args: argparse.Namespace) -> None:
    from partbench import config, gather, published
    from partbench.files import read_json
    from partbench.report import page

    where = args.results / "config.json"
    settings = config.check(read_json(where), str(where))
    gather.write(*gather.gather(settings, args.results, args.results / "logs"), args.results)
    page.write(args.results, args.out, published.load())


def _reader(args: argparse.Namespace) -> Any:
    from partbench import plugins
    from partbench.data.reader import Reader
    from partbench.files import data_root

    cls = plugins.load("data", args.reader, Reader)  # type: ignore[type-abstract]
    settings = cls.Settings.parse(_json(args.settings, "--settings"), f"data.{args.data_set}")
    return cls(data_root(), settings)


def _json(text: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{where} is not json: {error}") from None
    if not isinstance(values, dict):
        raise BadInput(f'{where} must be a json object, such as {{"seed": 1}}')
    return values


def _run(key: str) -> Any:
    from partbench.run import Run

    parts = key.split("/")
    if len(parts) != 4 or not parts[3].isdigit():
        raise BadInput(f"--run {key}: must be method/variant/train/seed")
    return Run(parts[0], parts[1], parts[2], int(parts[3]))
