"""Pages that are made from the code: one for each method, data set and probe, and their indices.

What a page says stands in the module: its docstrings, the defaults and descriptions of its
settings, its variants and deviations; and in the table of published numbers.
"""

import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from partbench import method as methods
from partbench import plugins, published, references
from partbench.data.archives import ARCHIVES
from partbench.data.catalogue import prepared_bytes
from partbench.data.reader import Reader
from partbench.method import Method
from partbench.outputs.capability import capabilities
from partbench.probe import Probe
from partbench.settings import Settings

READER: type[Reader] = Reader  # type: ignore[type-abstract]
PROBE: type[Probe] = Probe  # type: ignore[type-abstract]


def write_reference(folder: Path) -> None:
    """Write all pages below a folder; a page that did not change keeps its time."""
    pages = {
        **{f"methods/{name}.md": _method(name) for name in plugins.names("methods", Method)},
        **{f"data/{name}.md": _data(name) for name in plugins.names("data", READER)},
        **{f"probes/{name}.md": _probe(name) for name in plugins.names("probes", PROBE)},
        "methods/index.md": _methods(),
        "data/index.md": _data_sets(),
        "probes/index.md": _probes(),
    }
    for stale in folder.rglob("*.md"):
        if stale.relative_to(folder).as_posix() not in pages:
            stale.unlink()
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _methods() -> str:
    rows = []
    for name in plugins.names("methods", Method):
        cls = methods.load(name)
        offers = [_words(o) for o, c in capabilities().items() if c.offered_by(cls)]
        variants = ", ".join(f"`{v}`" for v in (*cls.VARIANTS, *cls.REDUCED))
        what = (_title(cls), ROLES[cls.role], variants, ", ".join(offers))
        rows.append([f"[`{name}`]({name}.md)", *what])
    return _page(
        "Methods",
        "A method is one model with its loss, as its paper or its code has it, in one file of "
        "`partbench/methods/`. A variant is a named change of its settings; `a+b` applies `a`, "
        "then `b`, and `paper` changes nothing. A control shows what a number is worth: a floor or "
        "a ceiling.",
        _table(["method", "what it is", "role", "variants", "offers"], rows),
        _contents(plugins.names("methods", Method)),
    )


ROLES = {"method": "method", "floor": "floor control", "ceiling": "ceiling control"}


def _method(name: str) -> str:
    cls = methods.load(name)
    defaults = cls.Settings()
    facts = [
        ["role", ROLES[cls.role]],
        ["learns from", cls.learns_from],
        ["trains on", cls.reads],
        [
            "offers",
            ", ".join(_words(o) for o, c in capabilities().items() if c.offered_by(cls)) or "none",
        ],
        ["networks that it starts from", cls.pretrained_on(defaults) or "none"],
        ["files to fetch", ", ".join(f"`{w}`" for w in cls.weights(defaults)) or "none"],
        ["needs several seeds", "yes" if cls.draws(defaults) else "no: the seed changes nothing"],
    ]
    variants = [
        [f"`{variant}`", _values(values), "reduced" if variant in cls.REDUCED else ""]
        for variant, values in (*cls.VARIANTS.items(), *cls.REDUCED.items())
    ]
    deviations = [
        [d.what, d.source, d.effect, ", ".join(f"`{v}`" for v in d.variants) or "all"]
        for d in cls.deviations
    ]
    return _page(
        f"`{name}`",
        _document(cls),
        _table(["", ""], facts),
        _section("Settings", _settings(cls.Settings), "The defaults are the paper's."),
        _section("Variants", _table(["variant", "changes", ""], variants) if variants else ""),
        _section(
            "What differs from the paper beside the settings",
            _table(["what", "source", "effect", "variants"], deviations) if deviations else "",
        ),
        _section("Published numbers", _claims([c for c in CLAIMS if c.method == name])),
        _section("References", _works(cls)),
        _source(cls),
    )


def _data_sets() -> str:
    rows = []
    for name in plugins.names("data", READER):
        cls = plugins.load("data", name, READER)
        size = _gigabytes(ARCHIVES.get(name, ()))
        what = (_title(cls), _way(name), size, cls.licence or "not stated")
        rows.append([f"[`{name}`]({name}.md)", *what])
    return _page(
        "Data sets",
        "A reader knows one official layout, in one file of `partbench/data/`.",
        _table(["data set", "what it is", "comes", "archives", "licence"], rows),
        _contents(plugins.names("data", READER)),
    )


def _data(name: str) -> str:
    cls = plugins.load("data", name, READER)
    reader = cls(Path(), cls.Settings())
    files = [
        [
            f"`{file.name}`",
            f"{file.size:,}" if file.size else "unknown",
            _checksum(file),
            "fetched" if file.urls else "by hand",
            file.source,
        ]
        for file in ARCHIVES.get(name, ())
    ]
    size = prepared_bytes(reader)
    facts = [
        ["comes", _way(name)],
        ["licence", cls.licence or "not stated"],
        ["samples", ", ".join(f"{split} {n:,}" for split, n in reader.counts.items()) or "yours"],
        ["prepared", f"{size / 2**30:.1f} GiB at {reader.settings.size} px" if size else "-"],
        ["official splits", str(cls.official_splits or 1)],
    ]
    return _page(
        f"`{name}`",
        _document(cls),
        _table(["", ""], facts),
        _section("Settings", _settings(cls.Settings)),
        _section(
            "Files",
            _table(["file", "bytes", "checksum", "comes", "source"], files) if files else "",
        ),
        _section("References", _works(cls)),
        _source(cls),
    )


def _way(name: str) -> str:
    files = ARCHIVES.get(name, ())
    if not files:
        return "no files to fetch"
    return "fetched" if all(file.urls for file in files) else "placed by hand"


def _gigabytes(files: Sequence[Any]) -> str:
    sizes = [file.size for file in files if file.size]
    if not sizes:
        return "unknown" if files else "none"
    return f"{sum(sizes) / 1e9:.1f} GB{'' if len(sizes) == len(files) else ' and more'}"


def _checksum(file: Any) -> str:
    for kind in ("sha256", "md5", "git_blob"):
        if digest := getattr(file, kind):
            return f"{kind.replace('_', ' ')} `{digest[:16]}`"
    return "not published"


def _probes() -> str:
    rows = []
    for name in plugins.names("probes", PROBE):
        cls = plugins.load("probes", name, PROBE)
        needs = ", ".join(_words(need) for need in cls.needs) or "the model"
        rows.append([f"[`{name}`]({name}.md)", needs, _title(cls)])
    return _page(
        "Probes",
        "A probe is a standard measurement of a run on a data set, in one file of "
        "`partbench/probes/`. A method that lacks what a probe needs has no cell there, and the "
        "report says why.",
        _table(["probe", "needs", "what it measures"], rows),
        _contents(plugins.names("probes", PROBE)),
    )


def _probe(name: str) -> str:
    cls = plugins.load("probes", name, PROBE)
    annotations = [" or ".join(group) for group in cls.annotations(cls.Settings())]
    facts = [
        ["needs of a method", ", ".join(_words(need) for need in cls.needs) or "nothing"],
        ["needs of the data", ", ".join(annotations) or "nothing"],
        ["reads", "the model itself" if cls.reads == "model" else "the outputs of a run"],
        ["version of the definition", str(cls.version)],
    ]
    papers = [[f"`{data}`", _values(values)] for data, values in cls.PAPER.items()]
    return _page(
        f"`{name}`",
        _document(cls),
        _table(["", ""], facts),
        _section("Settings", _settings(cls.Settings)),
        _section(
            "Settings by data set",
            _table(["data set", "settings"], papers) if papers else "",
            "Where a paper's protocol differs from the defaults, the data set brings it along.",
        ),
        _section(
            "What tells its numbers apart",
            _settings(cls.Setting) if cls.Setting.model_fields else "",
            "Two numbers of one metric differ in these.",
        ),
        _section("Published numbers", _claims([c for c in CLAIMS if c.probe == name])),
        _section("References", _works(cls)),
        _source(cls),
    )


CLAIMS = published.load()


def _claims(claims: Sequence[published.Claim]) -> str:
    if not claims:
        return ""
    rows = [
        [
            claim.paper,
            claim.name,
            f"{claim.method} {claim.variant}".strip(),
            claim.metric,
            f"{claim.value:g} {claim.unit}".strip(),
            claim.status,
            claim.why or "compared",
        ]
        for claim in claims
    ]
    header = ["paper", "number", "ours", "metric", "value", "status", "verdict"]
    return _table(header, rows)


def _works(cls: Any) -> str:
    return "\n".join(f"- {work}" for work in references.resolve(cls.references, cls.__name__))


def _document(cls: type) -> str:
    """Return the docstrings of a class and of its module, which say it to a reader."""
    module = inspect.getdoc(inspect.getmodule(cls)) or ""
    own = inspect.getdoc(cls) or ""
    return "\n\n".join(_markdown(text) for text in dict.fromkeys([module, own]) if text)


def _markdown(text: str) -> str:
    """Return a docstring as Markdown: the lists of its sections become lists."""
    lines = []
    for line in text.splitlines():
        if re.fullmatch(r"(Args|Raises|Returns|Attributes):", line):
            lines += [f"**{line[:-1]}**", ""]
        elif match := re.fullmatch(r" {4}(\w+): (.*)", line):
            lines.append(f"- `{match[1]}`: {match[2]}")
        else:
            lines.append(line.replace("<", "&lt;") if "`" not in line else line)
    return "\n".join(lines)


def _title(cls: type) -> str:
    """Return the first sentence of a module's docstring."""
    return (inspect.getdoc(inspect.getmodule(cls)) or "").split("\n\n")[0].replace("\n", " ")


def _settings(cls: type[Settings]) -> str:
    rows = []
    for name, field in cls.model_fields.items():
        if field.default_factory is not None:
            default = "empty"
        elif field.default is PydanticUndefined:
            default = "must be given"
        else:
            default = f"`{_value(field.default)}`"
        rows.append([f"`{name}`", default, field.description or ""])
    return _table(["setting", "default", "what it is"], rows)


def _value(value: Any) -> str:
    if isinstance(value, Settings):
        value = value.model_dump(mode="json")
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"`{key}: {_value(value)}`" for key, value in values.items()) or "nothing"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _source(cls: type) -> str:
    file = Path(inspect.getfile(cls)).relative_to(Path(plugins.__file__).parents[1])
    return f"Source: `{file.as_posix()}`"


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", *filter(None, parts)]) + "\n"


def _section(title: str, content: str, intro: str = "") -> str:
    if not content:
        return ""
    return "\n\n".join(filter(None, [f"## {title}", intro, content]))


def _contents(names: Iterable[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", "", *names, "```"])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
