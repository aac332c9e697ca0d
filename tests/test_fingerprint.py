"""The fingerprint of code: what it follows, what changes it and what does not."""

import ast
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from partbench import fingerprint as code
from partbench import plugins
from partbench.fingerprint import PLUMBING, ROOT, WHOLE, _Target, _Text, fingerprint
from partbench.probe import Probe

Take = Callable[[dict[str, str]], str]
LAYERS = """
def warp(x):
    return scale(x) + 1

def scale(x):
    return FACTOR * x

def unused(x):
    return x

FACTOR = 2
"""


@pytest.fixture
def take(tmp_path: Path) -> Take:
    """Return the fingerprint of the module `entry` of a package with these files."""
    folders = (tmp_path / str(i) / "partbench" for i in itertools.count())

    def take(files: dict[str, str]) -> str:
        folder = next(folders)
        for name, text in files.items():
            path = folder / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            if not (path.parent / "__init__.py").exists():
                (path.parent / "__init__.py").touch()
        return fingerprint("partbench.entry", root=folder)

    return take


SAME = {
    "comment": ("x = 1\n", "# A comment.\nx = 1  # Another.\n"),
    "module docstring": ("x = 1\n", '"""A docstring."""\n\nx = 1\n'),
    "class docstring": ("class A:\n    x = 1\n", 'class A:\n    """Doc."""\n\n    x = 1\n'),
    "function docstring": (
        "def f(x):\n    return x\n",
        'def f(x):\n    """Doc."""\n    return x\n',
    ),
    "attribute docstring": ("x = 1\ny = 2\n", 'x = 1\n"""Doc."""\ny = 2\n'),
    "docstring for pass": ("class A(B):\n    pass\n", 'class A(B):\n    """Doc."""\n'),
    "formatting": (
        "def f(a, b): return {'a': a, 'b': (b)}\n",
        'def f(\n    a,\n    b,\n):\n    return {\n        "a": a,\n        "b": b,\n    }\n',
    ),
    "a long text cut in two": ("x = 'ab' + f'{y}cd'\n", "x = 'a' 'b' + (f'{y}' 'c' f'd')\n"),
    "order of definitions": ("def f(): g()\nx = 1\n", "x = 1\ndef f(): g()\n"),
    "order of imports": (
        "import a\nfrom b import d, c\n",
        "from b import c\nfrom b import d\nimport a\n",
    ),
    "description of a setting": (
        "class A(B):\n    x: int = Field(3, ge=0, description='old')\n",
        "class A(B):\n    x: int = Field(3, ge=0, description=f'{new}')\n",
    ),
    "description for none": ("x = pydantic.Field(3)\n", "x = pydantic.Field(3, description='a')\n"),
    "message of an error": (
        "def f(x):\n    raise BadInput(f'old {x}') from None\n",
        "def f(x):\n    raise BadInput('new')\n",
    ),
    "import for type checkers": (
        "from typing import TYPE_CHECKING\nx = 1\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import partbench.other\nx = 1\n",
    ),
}


@pytest.mark.parametrize("what", SAME)
def test_what_cannot_change_a_number_changes_nothing(what: str, take: Take) -> None:
    before, after = SAME[what]
    assert before != after
    assert take({"entry": before}) == take({"entry": after, "other": "A = 1\n"})


DIFFERENT = {
    "constant": ("x = 1\n", "x = 2\n"),
    "type of a constant": ("x = 1\n", "x = 1.0\n"),
    "true for one": ("x = 1\n", "x = True\n"),
    "text for none": ("x = None\n", "x = 'None'\n"),
    "text for name": ("x = y\n", "x = 'y'\n"),
    "operator": ("x = a + b\n", "x = a - b\n"),
    "order of operands": ("x = a - b\n", "x = b - a\n"),
    "argument for keyword": ("f(x)\n", "f(x=x)\n"),
    "nesting": ("x = [a, [b]]\n", "x = [[a], b]\n"),
    "else": ("def f():\n  if a: b\n  else: c\n", "def f():\n  if a: b\n  c\n"),
    "format": ("x = f'{y:.1f}'\n", "x = f'{y:.2f}'\n"),
    "default": ("def f(a=1): pass\n", "def f(a=2): pass\n"),
    "keyword only": ("def f(a, b): pass\n", "def f(a, *, b): pass\n"),
    "decorator": ("def f(): pass\n", "@cache\ndef f(): pass\n"),
    "base class": ("class A(B): pass\n", "class A(C): pass\n"),
    "bound of a setting": ("x = Field(1, ge=0)\n", "x = Field(1, ge=1)\n"),
    "description of something else": ("x = f(description='a')\n", "x = f(description='b')\n"),
    "other error": ("def f(): raise BadInput('a')\n", "def f(): raise Stop('a')\n"),
    "message of another error": ("def f(): raise Stop('a')\n", "def f(): raise Stop('b')\n"),
    "library of a name": ("from a import f\nx = f()\n", "from b import f\nx = f()\n"),
    "names swapped": (
        "from partbench.other import a as f, b as g\n",
        "from partbench.other import b as f, a as g\n",
    ),
    "names swapped in a function": (
        "def f():\n    from partbench.other import a as f, b as g\n",
        "def f():\n    from partbench.other import b as f, a as g\n",
    ),
    "beside a star": ("from partbench.other import *\nx = 1\n", "from partbench.other import *\n"),
    "else of TYPE_CHECKING": (
        "if TYPE_CHECKING: pass\nelse: x = 1\n",
        "if TYPE_CHECKING: pass\nelse: x = 2\n",
    ),
    "order of assignments": ("x = 1\nx += 2\nx *= 3\n", "x = 1\nx *= 3\nx += 2\n"),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_can_change_a_number_changes_it(what: str, take: Take) -> None:
    before, after = DIFFERENT[what]
    other = {"other": "def a(): return 1\ndef b(): return 2\n"}
    assert take({"entry": before, **other}) != take({"entry": after, **other})


IMPORTS = {
    "from the module": "from partbench.nn.tps import warp",
    "from the module, renamed": "from partbench.nn.tps import warp as other",
    "of the module": "import partbench.nn.tps",
    "of the module, renamed": "import partbench.nn.tps as other",
    "from the package": "from partbench.nn import tps",
    "relative": "from .nn.tps import warp",
    "relative, of the module": "from .nn import tps",
    "star": "from partbench.nn.tps import *",
    "in a function": "def f():\n    from partbench.nn.tps import warp\n    return warp",
    "in a function, of the module": "def f():\n    import partbench.nn.tps as tps\n    return tps",
    "in a condition": "try:\n    from partbench.nn.tps import warp\nexcept ImportError:\n    x = 1",
    "through another module": "from partbench.between import warp",
    "through a package": "from partbench.nn import warp",
    "set dynamically": "from partbench.nn.tps import made_by_setattr",
}


@pytest.mark.parametrize("form", IMPORTS)
def test_every_import_is_followed(form: str, take: Take) -> None:
    files = {
        "entry": IMPORTS[form] + "\n",
        "between": "from partbench.nn.tps import warp\n",
        "nn/__init__": "from .tps import warp\n" if form == "through a package" else "",
    }
    before = take({**files, "nn/tps": LAYERS})
    assert take({**files, "nn/tps": f"# A comment.\n{LAYERS}"}) == before
    assert take({**files, "nn/tps": LAYERS.replace("FACTOR = 2", "FACTOR = 3")}) != before


def test_relative_imports_are_followed_from_below(take: Take) -> None:
    files = {
        "entry": "from partbench.nn.deep import f\n",
        "nn/deep/__init__": "from ..tps import warp\nfrom .leaf import leaf\ndef f(): warp, leaf\n",
        "nn/deep/leaf": "def leaf(): return 1\n",
    }
    before = take({**files, "nn/tps": LAYERS})
    assert take({**files, "nn/tps": LAYERS.replace("+ 1", "+ 2")}) != before
    leaf = {"nn/deep/leaf": "def leaf(): return 2\n"}
    assert take({**files, **leaf, "nn/tps": LAYERS}) != before


def test_only_what_a_name_uses_is_reached(take: Take) -> None:
    entry = {"entry": "from partbench.nn.tps import warp\n"}
    before = take({**entry, "nn/tps": LAYERS})
    for old, new, reached in (
        ("return x\n", "return -x\n", False),
        ("x) + 1", "x) + 2", True),
        ("FACTOR * x", "x * FACTOR", True),
        ("FACTOR = 2", "FACTOR = 3", True),
        ("FACTOR = 2", "FACTOR = 2\nOTHER = 3", False),
        ("def unused(x):\n    return x\n", "", False),
        ("FACTOR = 2", "FACTOR = 2\nimport scipy", False),
    ):
        assert old in LAYERS
        changed = take({**entry, "nn/tps": LAYERS.replace(old, new)})
        assert (changed != before) == reached, new


def test_a_module_counts_whole(take: Take) -> None:
    entry = {"entry": "from partbench.nn import tps\n"}
    before = take({**entry, "nn/tps": LAYERS})
    assert take({**entry, "nn/tps": LAYERS.replace("return x\n", "return -x\n")}) != before


EFFECTS = ["switch(True)", "torch.backends.exact = True", "TABLE['a'] = 1", "if a:\n    b = c"]


@pytest.mark.parametrize("effect", EFFECTS)
def test_statements_that_bind_nothing_always_count(effect: str, take: Take) -> None:
    """Python runs them with every import: of the module, of its packages, of what it imports."""
    entry = {"entry": "from partbench.nn.tps import warp\n"}
    far = {"far": "def far(): pass\n"}
    layers = f"from partbench.far import far\n{LAYERS}"
    before = take({**entry, **far, "nn/tps": layers})
    assert take({**entry, **far, "nn/tps": f"{layers}\n{effect}\n"}) != before
    assert take({**entry, **far, "nn/tps": layers, "nn/__init__": f"{effect}\n"}) != before
    assert take({**entry, "far": f"{far['far']}\n{effect}\n", "nn/tps": layers}) != before


def test_effects_of_what_a_function_imports_count(take: Take) -> None:
    entry = {"entry": "def f():\n    from partbench.nn.tps import warp\n    return warp\n"}
    before = take({**entry, "nn/tps": LAYERS})
    assert take({**entry, "nn/tps": f"{LAYERS}\nswitch(True)\n"}) != before


def test_an_effect_reaches_what_it_uses(take: Take) -> None:
    entry = {"entry": "from partbench.nn.tps import warp\n"}
    effect = f"{LAYERS}\nregister(unused)\n"
    before = take({**entry, "nn/tps": effect})
    assert take({**entry, "nn/tps": effect.replace("return x\n", "return -x\n")}) != before


def test_cycles_end(take: Take) -> None:
    files = {
        "entry": "from partbench.a import f\n",
        "a": "from partbench.b import g\ndef f(): g(); f()\n",
    }
    before = take({**files, "b": "from partbench import a\ndef g(): return a.f\n"})
    assert take({**files, "b": "from partbench import a\ndef g(): return a.f()\n"}) != before


def test_plumbing_is_not_followed(take: Take) -> None:
    entry = {"entry": "from partbench.progress import Progress\nfrom partbench import files\n"}
    before = take({**entry, "progress": "class Progress: x = 1\n", "files": "f()\n"})
    assert take({**entry, "progress": "class Progress: x = 2\n", "files": "g()\n"}) == before


def test_plumbing_exists_and_has_its_reasons() -> None:
    for module, reason in PLUMBING.items():
        assert ROOT.joinpath(*module.split(".")).with_suffix(".py").is_file()
        assert reason
    assert not {"settings", "method", "model", "probe", "train"} & PLUMBING.keys()


@pytest.mark.parametrize("module", ["data/archives", "data/fetch"])
def test_how_files_are_got_reruns_no_probe(module: str, tmp_path: Path) -> None:
    entries = ("partbench.probe", "partbench.probes.generation")

    def after(folder: str, module: str, edit: str) -> str:
        root = tmp_path / folder / "partbench"
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns("__pycache__"))
        path = root / f"{module}.py"
        path.write_text(path.read_text() + edit)
        return fingerprint(*entries, root=root)

    new = "\nARCHIVES['new'] = (Archive(name='new', gives={}),)\n"
    assert after("files", module, new) == fingerprint(*entries)
    assert after("probe", "probes/generation", "\nENOUGH = 2\n") != fingerprint(*entries)


def test_an_entry_must_exist(take: Take) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"partbench\.entry"):
        take({"other": "x = 1\n"})


def test_order_of_entries_and_folder_do_not_matter(tmp_path: Path) -> None:
    entries = ["partbench.train", "partbench.methods.patchvae"]
    expected = fingerprint(*entries)
    assert expected == fingerprint(*reversed(entries))
    assert len(expected) == 12
    for folder in ("a", "b/c"):
        # Only text is read: links stand for a clone elsewhere.
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "partbench").symlink_to(ROOT)
        assert fingerprint(*entries, root=tmp_path / folder / "partbench") == expected
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from partbench import fingerprint as f; print(f.of_training('patchvae'))",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT.parent), "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected


def test_fields_of_a_later_python_do_not_matter() -> None:
    """3.12 gave functions and classes `type_params`, empty; it also cuts f-strings otherwise."""
    source = "def f(a):\n    return f'a{a}b'\nclass A: pass\n"
    expected = _Text("partbench", ast.parse(source).body).digest
    later = ast.parse(source)
    for node in ast.walk(later):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            node._fields = (*node._fields, "type_params")  # type: ignore[misc]
            node.type_params = []  # type: ignore[attr-defined]
        if isinstance(node, ast.JoinedStr):
            node.values[2:] = [ast.Constant(""), ast.Constant("b"), ast.Constant("")]
    assert _Text("partbench", later.body).digest == expected


def test_text_says_what_it_refers_to() -> None:
    text = _Text("partbench.nn", ast.parse("from . import tps\nx = tps.warp(y)\n").body)
    assert text.targets == {_Target("partbench.nn", "tps")}
    assert text.names == {"x", "tps", "y"}
    text = _Text("partbench", ast.parse("import torch.nn as nn\n").body)
    assert text.targets == {_Target("torch.nn", WHOLE)}


def test_every_stage_has_a_fingerprint() -> None:
    """Each reaches what it is made by, and not what only others use."""
    base: type[Probe] = Probe  # type: ignore[type-abstract]
    stages = [
        *(code.of_preparation(reader) for reader in ("toy", "cub")),
        *(code.of_training(method) for method in ("patchvae", "vae", "zhang", "kmeans")),
        *(code.of_extraction([name]) for name in ("features", "keypoints")),
        *(code.of_probe(plugins.load("probes", name, base)) for name in ("linear", "classify")),
        code.of_foreground(),
        *(code.of_scenes(reader) for reader in ("toy", "cub")),
        *(code.of_flow(reader) for reader in ("toy", "ucf101")),
        *(code.of_second_stream(method) for method in ("fv_vae", "pooling")),
        code.of_report(),
    ]
    assert len(set(stages)) == len(stages)


def test_templates_and_published_numbers_count_in_the_report(tmp_path: Path) -> None:
    root = tmp_path / "partbench"
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns("__pycache__"))
    expected = code.of_report(root)
    assert expected == code.of_report()
    templates = ("style.css", "layout.html", "script.js")
    for name in (
        *(f"report/templates/{template}" for template in templates),
        *("references.bib", "published.csv"),
    ):
        path = root / name
        before = path.read_bytes()
        path.write_bytes(before + b"\n")
        assert code.of_report(root) != expected
        path.write_bytes(before)
    os.utime(path)
    (root / "report/notes.txt").touch()
    assert code.of_report(root) == expected
