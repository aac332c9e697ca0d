"""What a configuration builds on: the works behind it, as BibTeX, and the licences of its data."""

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel

from partbench import config as grid
from partbench import method as methods
from partbench import references
from partbench.config import Config
from partbench.errors import BadInput
from partbench.nn.weights import IMAGENET_LABELS
from partbench.references import Reference

NOT_STATED = "not stated"


def cited(config: Config) -> list[tuple[Reference, list[str]]]:
    """Return the works behind a configuration, each once, and what they are cited for.

    Raises:
        BadInput: a class names a work that is not known, or two mean different works by one key.
    """
    found: dict[str, tuple[Reference, list[str], str]] = {}
    for what, keys in _users(config):
        for work in references.resolve(dict.fromkeys(keys), what):
            first, users, whose = found.setdefault(work.key, (work, [], what))
            if first.bibtex != work.bibtex:
                raise BadInput(
                    f"{whose} and {what} name different works {work.key}; give one another key"
                )
            if what not in users:
                users.append(what)
    return [(work, users) for work, users, _ in found.values()]


def licences(config: Config) -> dict[str, str]:
    """Return the readers of a configuration's data -> the licences, as far as they are stated."""
    readers = {_reader(config, name): grid.load_reader(config, name) for name in config.data}
    return {name: readers[name].licence or NOT_STATED for name in sorted(readers)}


def text(config: Config) -> str:
    """Return the BibTeX of all works behind a configuration, the rest as comments."""
    lines = [f"% What the configuration {config.name} builds on."]
    for work, users in cited(config):
        lines += ["", f"% {', '.join(users)}", work.bibtex]
    lines += ["", "% Licences of the data:"]
    lines += [f"%   {name}: {licence}" for name, licence in licences(config).items()]
    return "\n".join(lines)


def _users(config: Config) -> Iterator[tuple[str, Iterable[str]]]:
    """Yield what is cited and the keys of its works, or their BibTeX."""
    for run in dict.fromkeys(run._replace(seed=0, train="") for run in grid.runs(config)):
        cls = methods.load(run.method)
        yield f"method {run.method}", cls.references
        settings = grid.method_settings(config, run.method, run.variant)
        if not methods.is_untrained(cls, settings):
            names = (*_words(settings), *methods.needed_weights(cls, settings))
            labels = cls.pretrained_on(settings) == IMAGENET_LABELS
            works = references.of_networks(names)
            networks = [*works, references.IMAGENET] if labels else works
            yield f"network of {run.method}", networks
    for probe, data in dict.fromkeys((cell.probe, cell.eval) for cell in grid.cells(config)):
        yield f"probe {probe}", grid.load_probe(probe).references
        settings = grid.probe_settings(config, probe, data)
        weights = grid.load_probe(probe).weights(settings)
        yield f"network of {probe}", references.of_networks((*_words(settings), *weights))
    for name in config.data:
        yield f"data set {_reader(config, name)}", grid.load_reader(config, name).references
        for form in grid.FORMS:
            if derived := form(config, name):
                yield f"network of {name}", references.of_networks(_words(derived))


def _reader(config: Config, name: str) -> str:
    """Return the name of the reader of a data set, or of the one that it repeats."""
    return str(config.data[grid.repeated(config, name)]["reader"])


def _words(settings: Any) -> Iterator[str]:
    """Yield the texts in settings, and the names of the networks that they fetch."""
    if isinstance(settings, str):
        yield settings
    elif isinstance(settings, BaseModel):
        for _, value in settings:
            yield from _words(value)
        yield from getattr(settings, "fetched", ())
