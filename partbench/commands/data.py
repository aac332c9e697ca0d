"""List, fetch, check and look at data sets."""

import argparse
from pathlib import Path
from typing import Any

from partbench.commands import CONFIG
from partbench.settings import json_object


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        new = verbs.add_parser(name, help=text, description=text)
        new.set_defaults(run=run)
        return new

    verb("list", _list, "Print all data sets, their sizes and licences.")
    fetching = verb("fetch", _fetch, "Fetch, verify and unpack official files.")
    fetching.add_argument("names", nargs="+", metavar="NAME")
    checking = verb("check", _check, "List what is present, what is missing, and how to get it.")
    checking.add_argument("names", nargs="*", metavar="NAME")
    changing = verb("changed", _changed, "Tell which data sets changed after preparation.")
    changing.add_argument("config", nargs="?", default="paper", help=CONFIG)
    changing.add_argument(
        "--contents",
        action="store_true",
        help="read every file, even if names, sizes and times are the same",
    )
    copying = verb("as-stl10", _as_stl10, "Write images in the layout of STL-10.")
    copying.add_argument("folder", type=Path, help="with train/, test/ and perhaps unlabeled/")
    showing = verb("show", _show, "Write a contact sheet, annotations drawn on.")
    showing.add_argument("name", metavar="NAME")
    showing.add_argument("--settings", default="{}", help="the reader's settings, json")
    showing.add_argument("--out", type=Path, help="png file; default NAME.png")


def _list(args: argparse.Namespace) -> None:
    from partbench.data import catalogue
    from partbench.files import data_root

    print(catalogue.listing(data_root()))


def _fetch(args: argparse.Namespace) -> None:
    from partbench.data.archives import archives
    from partbench.data.fetch import fetch
    from partbench.files import data_root

    files = {file.name: file for name in args.names for file in archives(name)}
    fetch(list(files.values()), data_root())


def _check(args: argparse.Namespace) -> None:
    from partbench.data import catalogue
    from partbench.files import data_root

    text, whole = catalogue.report(args.names, data_root())
    print(text)
    if not whole:
        raise SystemExit(1)


def _changed(args: argparse.Namespace) -> None:
    from partbench import config, shipped
    from partbench.data import catalogue
    from partbench.files import data_root

    settings = config.read(shipped.configuration(args.config))
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


def _as_stl10(args: argparse.Namespace) -> None:
    from partbench.data.stl10_layout import write_as_stl10
    from partbench.files import data_root

    print(write_as_stl10(args.folder, data_root()))


def _show(args: argparse.Namespace) -> None:
    from partbench.data import catalogue
    from partbench.files import data_root

    out = args.out or Path(f"{args.name}.png")
    catalogue.show(args.name, data_root(), json_object(args.settings, "--settings"), out)
    print(out)
