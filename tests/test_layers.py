"""The order of the layers, and the length of files."""

import ast
from pathlib import Path

import pytest
from checkout import REPOSITORY

PACKAGE = REPOSITORY / "partbench"
LAYERS = ("data", "nn", "metrics", "outputs", "methods", "probes", "score", "rulers", "report")
BELOW = {
    "data": {"data"},
    "nn": {"nn"},
    "metrics": {"metrics"},
    "outputs": {"data", "nn", "metrics", "outputs"},
    "methods": {"data", "nn", "metrics", "outputs", "methods"},
    "probes": {"data", "nn", "metrics", "outputs", "probes"},
    "score": {"data", "metrics", "outputs", "probes", "score"},
    "rulers": {"metrics", "probes", "score", "rulers"},
    "report": {"data", "metrics", "outputs", "probes", "report"},
}
"""Layer -> the layers that it may import; a probe knows methods by their contract alone."""
FORBIDDEN = {
    "data": {"config", "method", "model", "probe"},
    "nn": {"config", "method", "model", "probe", "run"},
    "metrics": {"config", "files", "method", "model", "probe"},
    "outputs": {"config", "method", "model", "probe"},
    "methods": {"config", "model", "probe"},
}
"""Layer -> the modules beside the layers that it may not import."""
LONG = {"toy.py", "logistic.py"}
MOST_LINES = 450


def imports_of(folder: Path) -> set[tuple[str, str]]:
    """Return (file, what it imports below partbench: `nn.tps`) of all files in a folder."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            below = (name.split(".", 1)[1] for name in names if name.startswith("partbench."))
            found |= {(str(path.relative_to(PACKAGE)), name) for name in below}
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_what_lies_below_it(layer: str) -> None:
    imports = imports_of(PACKAGE / layer)
    assert imports
    for file, name in sorted(imports):
        top = name.split(".")[0]
        assert top not in LAYERS or top in BELOW[layer], (file, name)
        assert top not in FORBIDDEN.get(layer, set()), (file, name)


def test_no_file_is_long() -> None:
    """A reader takes in a file in one sitting."""
    lengths = {
        str(path.relative_to(PACKAGE)): len(path.read_text().splitlines())
        for path in PACKAGE.rglob("*")
        if path.suffix in (".py", ".html", ".css", ".js") and path.name not in LONG
    }
    assert len(lengths) > 100
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}
