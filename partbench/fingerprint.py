"""What a change of code makes run again: a fingerprint of the code that a stage can reach.

A fingerprint starts at the modules that a stage enters and follows every import inside partbench
and inside the packages of plugins. It reads source files only, so it is the same in every folder
and on every machine. It leaves out what cannot change a number: comments, docstrings, formatting,
the order of definitions, descriptions of settings, messages of `BadInput`, the works that a class
cites (`references`), imports for type checkers, and the modules in `PLUMBING`.

The unit is a name at the top level of a module. `from partbench.nn.tps import warp` reaches the
definition of `warp`, the names that this definition uses, and so on. An imported module counts
whole, as an entry does. Statements that bind no name, such as a call, run with every import of
their module and always count. Names are matched without regard to scope: a local variable called
like a definition reaches that definition too.

The workflow passes the fingerprint of a stage to each of its rules as a parameter, and Snakemake
runs a job again when a parameter differs from that of its last run. Fetching has none, because
checksums decide what it may deliver. What calls the stages (the command line and the workflow)
is not followed.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from partbench import plugins

if TYPE_CHECKING:
    from partbench.probe import Probe

ROOT = Path(__file__).parent

PLUMBING = {
    "data.archives": "tells where official files are got, and which checksums they must have",
    "data.fetch": "gets official files and verifies them, or ends a stage with a message",
    "data.placed": "tells when to prepare again, not what",
    "errors": "ends a stage with a message, so there is no result",
    "files": "writes bytes to the disk and reads the same bytes back",
    "fingerprint": "describes the code",
    "outputs.capability": "checks a method, and ends a stage or lets it go on",
    "plugins": "finds a class by its name; the module of that class is an entry",
    "progress": "prints",
    "provenance": "describes the machine",
}
"""Modules that no fingerprint follows -> why they cannot change a number."""

WHOLE, EFFECTS = "*", ""


def of_preparation(reader: str) -> str:
    """Return the fingerprint of preparing a data set of `reader`."""
    return fingerprint("partbench.data.prepare", plugins.module("data", reader))


def of_foreground() -> str:
    """Return the fingerprint of finding a data set's foreground."""
    return fingerprint("partbench.foreground")


def of_scenes(reader: str) -> str:
    """Return the fingerprint of finding the neighbours of a data set's images."""
    return fingerprint("partbench.scenes", plugins.module("data", reader))


def of_clusters(method: str) -> str:
    """Return the fingerprint of clustering the features of a run of a method."""
    return fingerprint("partbench.pseudo_labels", plugins.module("methods", method))


def of_flow(reader: str) -> str:
    """Return the fingerprint of finding the optical flow of a data set's clips."""
    return fingerprint("partbench.flow", plugins.module("data", reader))


def of_second_stream(method: str) -> str:
    """Return the fingerprint of describing a second stream by a run of a method."""
    return fingerprint("partbench.second_stream", plugins.module("methods", method))


def of_training(method: str) -> str:
    """Return the fingerprint of training a method."""
    return fingerprint("partbench.train", plugins.module("methods", method))


def of_extraction(capabilities: Iterable[str]) -> str:
    """Return the fingerprint of writing and drawing some capabilities of a run."""
    return fingerprint(*_extraction(capabilities))


def of_probe(probe: "type[Probe]") -> str:
    """Return the fingerprint of a probe's cells: of measuring and of writing what it reads."""
    extraction = _extraction(probe.needs) if probe.reads == "outputs" else []
    return fingerprint("partbench.probe", probe.__module__, *extraction)


def _extraction(capabilities: Iterable[str]) -> list[str]:
    return ["partbench.extract", *(f"partbench.outputs.{name}" for name in capabilities)]


def of_report(root: Path = ROOT) -> str:
    """Return the fingerprint of the tables and the page, with its templates and its numbers."""
    files = sorted((root / "report").rglob("*"))
    modules = [_module(root, path) for path in files if path.suffix == ".py"]
    digest = hashlib.sha256(fingerprint("partbench.gather", *modules, root=root).encode())
    for path in [*files, root / "published.csv", root / "references.bib"]:
        if path.suffix in (".html", ".css", ".js", ".csv", ".bib"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def fingerprint(*entries: str, root: Path = ROOT) -> str:
    """Return a short sha256 of all code that modules can reach, 12 hexadecimal digits.

    Args:
        entries: the modules, such as "partbench.train".
        root: the folder of partbench.

    Raises:
        ModuleNotFoundError: an entry does not exist.
    """
    for entry in entries:
        if _path(root, entry) is None:
            raise ModuleNotFoundError(f"no module {entry} beside {root} or in a plugin")
    digests: dict[_Target, str] = {}
    waiting = [_Target(entry, WHOLE) for entry in entries]
    seen = set(waiting)
    while waiting:
        target = waiting.pop()
        piece = _piece(root, target)
        digests[target] = piece.digest
        waiting += piece.targets - seen
        seen |= piece.targets
    lines = sorted(f"{target} {digest}" for target, digest in digests.items() if digest)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


class _Target(NamedTuple):
    module: str
    name: str
    """A name at the module's top level, or `WHOLE`, or `EFFECTS` for what binds no name."""

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


class _Piece(NamedTuple):
    """A piece of code: the sha256 of its canonical text, and what it refers to."""

    digest: str
    targets: frozenset[_Target]


def _piece(root: Path, target: _Target) -> _Piece:
    module, name = target
    top, _, rest = module.partition(".")
    if top == root.name and rest in PLUMBING:
        return _Piece("", frozenset())
    path = _path(root, module)
    pieces = _pieces(path, module) if path else {}  # a folder may be a package without a file
    if name in pieces:
        return pieces[name]
    if name not in (WHOLE, EFFECTS) and _path(root, f"{module}.{name}"):
        targets = {_Target(f"{module}.{name}", WHOLE)}
    else:  # whole, or a name that is set in a way that cannot be seen here
        targets = {_Target(module, each) for each in pieces}
    return _Piece("", frozenset(targets))


def _module(root: Path, path: Path) -> str:
    """Return the module of a source file of the package."""
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def _path(root: Path, module: str) -> Path | None:
    """Return the source file of a module of partbench or of a plugin's package, or None."""
    top, _, rest = module.partition(".")
    place = root if top == root.name else plugins.packages().get(top)
    return _file(place, rest) if place else None


@cache
def _file(place: Path, module: str) -> Path | None:
    """Return the source file of a module of the package that lies at a place, or None."""
    place = place.joinpath(*module.split(".")) if module else place
    files = (place / "__init__.py", place.with_name(f"{place.name}.py"))
    return next((file for file in files if file.is_file()), None)


@cache
def _pieces(path: Path, module: str) -> dict[str, _Piece]:
    """Return the top-level names of a module -> their code; `EFFECTS` -> the rest of it."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    groups: dict[str, list[ast.stmt]] = {EFFECTS: []}
    imported: set[str] = set()
    for node in ast.parse(path.read_bytes(), str(path)).body:
        for name, part in _bindings(node):
            groups.setdefault(name, []).append(part)
            if isinstance(part, ast.Import | ast.ImportFrom):
                imported |= {target.module for target in _Text(package, [part]).targets}
    pieces = {}
    for name, nodes in groups.items():
        text = _Text(package, nodes)
        targets = {_Target(module, used) for used in text.names & groups.keys()} | text.targets
        # Whatever is reached, Python runs its module, the packages above and what these import.
        if name == EFFECTS:
            targets |= {_Target(each, EFFECTS) for each in {*imported, module.rpartition(".")[0]}}
        else:
            targets.add(_Target(module, EFFECTS))
        pieces[name] = _Piece(text.digest, frozenset(targets))
    return pieces


def _bindings(node: ast.stmt) -> Iterator[tuple[str, ast.stmt]]:
    """Yield each name that a top-level statement binds (or `EFFECTS`) and what binds it."""
    match node:
        case ast.Import(names=aliases):
            for alias in aliases:
                yield alias.asname or alias.name.partition(".")[0], ast.Import([alias])
        case ast.ImportFrom(module=module, names=aliases, level=level):
            for alias in aliases:
                name = EFFECTS if alias.name == WHOLE else alias.asname or alias.name
                yield name, ast.ImportFrom(module, [alias], level)
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name, node
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [each for target in targets for each in getattr(target, "elts", [target])]
            for each in names:
                yield each.id if isinstance(each, ast.Name) else EFFECTS, node
        case _:
            yield EFFECTS, node


class _Text(ast.NodeVisitor):
    """The canonical text of some statements, the names in it and what it imports.

    A node is written as its type and its fields that are not empty, so that a later Python with
    more fields writes the same.
    """

    def __init__(self, package: str, nodes: Iterable[ast.stmt]) -> None:
        self.package = package
        self.words: list[str] = []
        self.names: set[str] = set()
        self.targets: set[_Target] = set()
        for node in nodes:
            self.visit(node)

    @property
    def digest(self) -> str:
        """The sha256 of the text; empty where there is none."""
        return hashlib.sha256(" ".join(self.words).encode()).hexdigest() if self.words else ""

    def generic_visit(self, node: ast.AST) -> None:
        self._write(node, {name: getattr(node, name, None) for name in node._fields})

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring, or `...`
            self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        kept = [each for each in node.body if not _cites(each)]
        fields = {name: getattr(node, name, None) for name in node._fields}
        self._write(node, fields | {"body": kept})

    def visit_Pass(self, node: ast.Pass) -> None:
        pass

    def visit_If(self, node: ast.If) -> None:
        if _last(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)
            return
        for each in node.orelse:
            self.visit(each)

    def visit_Raise(self, node: ast.Raise) -> None:
        if isinstance(node.exc, ast.Call) and _last(node.exc.func) == "BadInput":
            self.words.append("raise BadInput")
        else:
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        keywords = node.keywords
        if _last(node.func) == "Field":
            keywords = [keyword for keyword in keywords if keyword.arg != "description"]
        self._write(node, {"func": node.func, "args": node.args, "keywords": keywords})

    def visit_Name(self, node: ast.Name) -> None:
        self.names.add(node.id)
        self.words.append(node.id)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        self._write(node, {"values": list(_joined(node.values))})

    def visit_Import(self, node: ast.Import) -> None:
        self._import([(_Target(alias.name, WHOLE), alias) for alias in node.names])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        above = self.package.split(".")[: 1 - node.level or None] if node.level else []
        source = ".".join([*above, *filter(None, [node.module])])
        self._import([(_Target(source, alias.name), alias) for alias in node.names])

    def _import(self, imports: list[tuple[_Target, ast.alias]]) -> None:
        self.targets |= {target for target, _ in imports}
        self.words += sorted(f"import {target} as {alias.asname}" for target, alias in imports)

    def _write(self, node: ast.AST, fields: dict[str, Any]) -> None:
        self.words.append(f"({type(node).__name__}")
        for name, value in fields.items():
            if value is None or value == [] or name in ("ctx", "kind", "type_comment"):
                continue
            self.words.append(f".{name}")
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, ast.AST):
                    self.visit(each)
                else:
                    self.words.append(ascii(each))
        self.words.append(")")


def _joined(parts: list[ast.expr]) -> Iterator[ast.expr]:
    """Yield the parts of an f-string, neighbouring texts as one: Pythons cut them differently."""
    text = ""
    for part in parts:
        if isinstance(part, ast.Constant):
            text += str(part.value)
            continue
        if text:
            yield ast.Constant(text)
        text = ""
        yield part
    if text:
        yield ast.Constant(text)


def _cites(node: ast.stmt) -> bool:
    """Whether a statement of a class says which works it cites."""
    match node:
        case ast.Assign(targets=[ast.Name("references")], value=ast.Tuple()):
            return True
        case ast.AnnAssign(target=ast.Name("references"), value=ast.Tuple()):
            return True
    return False


def _last(node: ast.expr) -> str:
    """Return the last name of `a.b.name`."""
    return str(getattr(node, "attr", getattr(node, "id", "")))
