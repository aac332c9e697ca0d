"""Configurations that a user gets wrong: one clear message, before any job, and nothing lost."""

import subprocess
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import Checkout

from partbench import cli, strict_yaml
from partbench.config import read
from partbench.data.folder import Folder
from partbench.data.prepare import prepare
from partbench.errors import BadInput

GOOD: dict[str, Any] = {
    "name": "test",
    "seeds": [0],
    "data": {"toy": {"reader": "toy", "size": 32}},
    "runs": [
        {"train": "toy", "methods": {"patchvae": ["demo+lw"]}, "probes": {"linear": ["toy"]}},
    ],
}


def write_config(tmp_path: Path, values: Any) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def changed(*keys: str | int, value: Any) -> dict[str, Any]:
    """Return the good configuration with one value set."""
    values = deepcopy(GOOD)
    place: Any = values
    for key in keys[:-1]:
        place = place.setdefault(key, {}) if isinstance(place, dict) else place[key]
    place[keys[-1]] = value
    return values


def said_by_plan(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the message of `partbench plan`, which must fail."""
    assert cli.main(["plan", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("partbench: ")
    return captured.err


def test_a_good_configuration_is_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", str(write_config(tmp_path, GOOD))]) == 0
    assert "patchvae demo+lw on toy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        (changed("seed", value=[0]), ["unknown key 'seed'", "did you mean 'seeds'?"]),
        (changed("runtime", value={"devise": "cpu"}), ["'runtime.devise'", "mean 'device'?"]),
        (changed("runs", 0, "method", value={}), ["'runs.0.method'", "did you mean 'methods'?"]),
        (changed("data", "toy", "sise", value=9), ["data.toy", "'sise'", "did you mean 'size'?"]),
        (changed("data", "toy", "reader", value="toi"), ["data.toy.reader", "'toi'", "'toy'?"]),
        (changed("data", "toy", value={"size": 32}), ["data.toy has no key 'reader'"]),
        (changed("probes", "linear", "css", value=[1.0]), ["probes.linear", "'css'", "'cs'?"]),
        (changed("probes", "liner", value={}), ["probes", "no 'liner'", "mean 'linear'?"]),
        (changed("runs", 0, "probes", value={"liner": ["toy"]}), ["'liner'", "'linear'?"]),
        (
            changed("runs", 0, "methods", value={"patchvea": ["demo"]}),
            ["runs[0].methods.patchvea", "no 'patchvea'", "did you mean 'patchvae'?"],
        ),
        (
            changed("runs", 0, "methods", value={"patchvae": ["dmeo"]}),
            ["runs[0].methods.patchvae", "no variant 'dmeo'", "did you mean 'demo'?"],
        ),
        (
            changed("settings", "patchvae", value={"part": 8}),
            ["patchvae", "unknown key 'part'", "did you mean 'parts'?"],
        ),
        (
            changed("settings", "vae", value={"bta": 8}),  # even where no run uses it
            ["settings.vae", "unknown key 'bta'", "did you mean 'beta'?"],
        ),
        (changed("settings", "vea", value={}), ["settings", "no 'vea'", "did you mean 'vae'?"]),
        (changed("runs", 0, "train", value="toyy"), ["runs[0].train", "'toyy'", "'toy'?"]),
        (
            changed("runs", 0, "probes", value={"linear": ["tooy"]}),
            ["runs[0].probes.linear", "no data set 'tooy'", "did you mean 'toy'?"],
        ),
        # Right keys, wrong values.
        (changed("seeds", value=3), ["'seeds' is 3", "valid list"]),
        (changed("seeds", value=[]), ["'seeds' is []", "at least 1 item"]),
        (changed("seeds", value=["one"]), ["'seeds.0' is 'one'", "valid integer"]),
        (changed("seeds", value=[-1]), ["'seeds.0' is -1", "greater than or equal to 0"]),
        (changed("name", value="a b"), ["'name' is 'a b'", "a name has at most 64"]),
        (changed("runs", value=[]), ["'runs' is []", "at least 1 item"]),
        (changed("runtime", value={"device": "gpu"}), ["'runtime.device' is 'gpu'", "'cuda'"]),
        (changed("data", "toy", "size", value="big"), ["data.toy", "'size' is 'big'", "integer"]),
        (changed("data", "toy", "size", value=4), ["'size' is 4", "greater than or equal to 8"]),
        (changed("data", "toy", value=None), ["'data.toy' is None", "dictionary"]),
        (
            changed("settings", "patchvae", value={"learning_rate": float("nan")}),
            ["'learning_rate' is nan", "finite"],
        ),
        (
            changed("settings", "patchvae", value={"epochs": -1}),
            ["'epochs' is -1", "greater than or equal to 0"],
        ),
        ({"name": "x"}, ["'seeds'", "Field required", "'data'", "'runs'"]),
        ({1: 2} | GOOD, ["mine.yaml", "1"]),
    ],
)
def test_a_typo_or_a_wrong_value_names_the_file_the_key_and_what_is_wanted(
    values: Any, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, values)
    message = said_by_plan(path, capsys)
    for part in (str(path), *parts):
        assert part in message


def test_every_fault_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = changed("seed", value=[0]) | {"comparable": "perhaps"}
    message = said_by_plan(write_config(tmp_path, values), capsys)
    assert "unknown key 'seed'" in message
    assert "'comparable' is 'perhaps'" in message


def lines(**changes: str) -> str:
    """Return the good configuration as YAML, some keys as given; a bare key stands for itself."""
    texts = {key: yaml.safe_dump({key: value}) for key, value in GOOD.items()}
    return "".join((texts | {key: f"{text}\n" for key, text in changes.items()}).values())


def bomb(level: str, item: str = "x") -> str:
    """Return YAML in which nine aliases of each level make the next: 9^9 values."""
    names = "abcdefghi"
    first = level.format(name="a", items=", ".join(9 * [item]))
    rest = [
        level.format(name=name, items=", ".join(9 * [f"*{before}"]))
        for before, name in pairwise(names)
    ]
    return "\n".join([first, *rest])


LIST_BOMB = bomb("{name}: &{name} [{items}]")
MERGE_BOMB = bomb("{name}: &{name} {{k{name}: 1, <<: [{items}]}}", item="{z: 1}")


def run_of(key: str, text: str) -> str:
    """Return the good configuration with the value of a key of its only block replaced."""
    block = {"train": "toy", "methods": "{patchvae: [demo]}", "probes": "{linear: [toy]}"}
    block[key] = text
    return lines(runs=f"runs: [{{{', '.join(f'{k}: {v}' for k, v in block.items())}}}]")


def data_of(text: str) -> str:
    return lines(data=f"data: {{toy: {text}}}")


def limited(text: str) -> str:
    return data_of(f"{{reader: toy, limit: {text}}}")


def folder_of(text: str) -> str:
    return data_of(f"{{reader: folder, {text}}}")


FILES: dict[str, tuple[str | bytes, list[str]]] = {
    # No YAML, or not one document of keys and values.
    "unclosed": ("name: [unclosed", ["not valid YAML"]),
    "a list": ("- a\n- list\n", ["must hold keys and values"]),
    "empty": ("", ["must hold keys and values"]),
    "comments alone": ("# nothing\n", ["must hold keys and values"]),
    "one word": ("demo", ["must hold keys and values"]),
    "null": ("null", ["must hold keys and values"]),
    "not UTF-8": (b"name: \xff\xfe", ["not valid YAML", "save it as UTF-8"]),
    "UTF-16": (lines().encode("utf-16"), ["not valid YAML", "save it as UTF-8"]),
    "Latin-1": ("# für Vögel\n".encode("latin-1"), ["not valid YAML", "save it as UTF-8"]),
    "NUL": (lines() + "\0", ["not valid YAML", "special characters are not allowed"]),
    "a tab": ("runtime:\n\tdevice: cpu\n", ["not valid YAML", "'\\t'", "line 2"]),
    "two documents": (f"{lines()}---\n{lines()}", ["not valid YAML", "but found another document"]),
    "an unknown alias": (lines(name="name: *x"), ["not valid YAML", "undefined alias 'x'"]),
    "long": ("#" * (2 << 20), ["longer than 1,048,576 bytes"]),
    "many values": (
        "name: [" + "x, " * 20_000 + "]",
        ["line 1", "more than 20,000 keys and values"],
    ),
    "deep": ("name: " + "[" * 100_000, ["line 1", "nested more than 32 levels deep"]),
    "deep in blocks": (
        "\n".join(f"{i * ' '}a:" for i in range(60)),
        ["line 32", "nested more than 32 levels deep"],
    ),
    # Aliases, tags and keys.
    "a bomb of aliases": (LIST_BOMB, ["line 5", "more than 20,000 keys and values", "write less"]),
    "a bomb of merges": (MERGE_BOMB, ["more than 20,000 keys and values", "write less"]),
    "an alias of itself": ("name: &x [*x]", ["line 1", "'*x' lies inside of what it stands for"]),
    "a tag that runs": (
        "name: !!python/object/apply:os.system ['touch crater']",
        ["line 1", "the tag 'tag:yaml.org,2002:python/object/apply:os.system'", "leave it out"],
    ),
    "a tag of one's own": (lines(name="name: !secret x"), ["the tag '!secret'", "leave it out"]),
    "a tag of bytes": (lines(name="name: !!binary eA=="), ["the tag", "leave it out"]),
    "a key twice": (
        lines(name="name: x\nname: y"),
        ["line ", "the key 'name' is given twice, first in line ", "keep one"],
    ),
    "a data set twice": (
        "data:\n  toy: {reader: toy}\n  toy: {reader: folder}\n",
        ["line 3", "the key 'toy' is given twice, first in line 2"],
    ),
    "a key twice in a line": (
        lines(runtime="runtime: {threads: 1, 'threads': 2}"),
        ["the key 'threads' is given twice"],
    ),
    "a list as a key": ("? [a]\n: b\n", ["not valid YAML", "unhashable key"]),
    "a number as a key": (lines() + "7: x\n", ["'7'", "Keys should be strings"]),
    "a truth as a data set": (lines(data="data: {on: {reader: toy}}"), ["'data'", "valid string"]),
    "a number as a data set": (lines(data="data: {1: {reader: toy}}"), ["'data'", "valid string"]),
    # Values that YAML reads otherwise than meant, or cannot read.
    "no date": (
        lines(name="name: 2026-13-45"),
        ["not valid YAML", "looks like a number or a date"],
    ),
    "no number": (lines(name="name: 0x_"), ["not valid YAML", "looks like a number or a date"]),
    "a date as a name": (lines(name="name: 2026-01-02"), ["'name' is", "valid string"]),
    "digits": (lines(seeds=f"seeds: [{'9' * 5000}]"), ["not valid YAML", "looks like a number"]),
    "a huge seed in base 16": (
        lines(seeds=f"seeds: [0x{'f' * 5000}]"),
        ["'seeds.0' is a number of thousands of digits", "less than or equal to 4294967295"],
    ),
    # Seeds.
    "a truth as a seed": (lines(seeds="seeds: [true]"), ["'seeds.0' is True", "valid integer"]),
    "a text as a seed": (lines(seeds="seeds: ['1']"), ["'seeds.0' is '1'", "valid integer"]),
    "a broken seed": (lines(seeds="seeds: [0.5]"), ["'seeds.0' is 0.5", "valid integer"]),
    "no number as a seed": (lines(seeds="seeds: [.nan]"), ["'seeds.0' is nan", "valid integer"]),
    "a large seed": (lines(seeds="seeds: [4294967296]"), ["'seeds.0'", "equal to 4294967295"]),
    "a seed twice": (lines(seeds="seeds: [0, 1, 0]"), ["'seeds'", "it holds 0 2 times"]),
    "no seeds in a block": (run_of("seeds", "[]"), ["'runs.0.seeds' is []", "at least 1 item"]),
    # Blocks that would drop cells.
    "no variants": (
        run_of("methods", "{patchvae: []}"),
        ["'runs.0.methods.patchvae' is []", "at least 1 item"],
    ),
    "no methods": (run_of("methods", "{}"), ["'runs.0.methods' is {}", "at least 1 item"]),
    "no probes": (run_of("probes", "{}"), ["'runs.0.probes' is {}", "at least 1 item"]),
    "no data sets of a probe": (
        run_of("probes", "{linear: []}"),
        ["'runs.0.probes.linear' is []", "at least 1 item"],
    ),
    "a variant twice": (
        run_of("methods", "{patchvae: [demo, demo]}"),
        ["'runs.0.methods.patchvae'", "it holds demo 2 times"],
    ),
    "a probe's data set twice": (
        run_of("probes", "{linear: [toy, toy]}"),
        ["'runs.0.probes.linear'", "it holds toy 2 times"],
    ),
    "a text for a list": (
        run_of("probes", "{linear: toy}"),
        ["'runs.0.probes.linear' is 'toy'", "valid list"],
    ),
    "runs that are no list": (lines(runs="runs: {train: toy}"), ["'runs' is", "valid list"]),
    "a run that is none": (lines(runs="runs: [null]"), ["'runs.0' is None", "valid dictionary"]),
    # Data sets.
    "no data set": (lines(data="data: {}"), ["'data' is {}", "at least 1 item"]),
    "data that are a list": (lines(data="data: [toy]"), ["'data' is ['toy']", "valid dictionary"]),
    "a reader of a number": (data_of("{reader: 5}"), ["data.toy.reader is 5", "partbench/data/"]),
    "no reader": (data_of("{reader: null}"), ["data.toy.reader is None", "partbench/data/"]),
    "a reader of a list": (data_of("{reader: [toy]}"), ["data.toy.reader is ['toy']"]),
    "a reader that is a path": (data_of("{reader: ../toy}"), ["data.toy.reader", "no '../toy'"]),
    "a size without bound": (
        data_of("{reader: toy, size: 100000}"),
        ["data.toy: 'size' is 100000", "less than or equal to 4096"],
    ),
    "a size in exponents": (
        data_of("{reader: toy, size: 1.0e+5}"),
        ["data.toy: 'size' is 100000.0", "less than or equal to 4096"],
    ),
    "a size of text": (data_of("{reader: toy, size: 1e5}"), ["data.toy: 'size' is '1e5'"]),
    "an infinite size": (data_of("{reader: toy, size: .inf}"), ["'size' is inf", "finite"]),
    "a negative limit": (
        limited("{train: -2}"),
        ["data.toy: 'limit.train' is -2", "greater than or equal to 1"],
    ),
    "a limit of nothing": (limited("{train: 0}"), ["'limit.train' is 0", "or equal to 1"]),
    "a limit of a truth": (limited("{train: yes}"), ["'limit.train' is True", "valid integer"]),
    "a limit without a split": (limited("10"), ["data.toy: 'limit' is 10", "valid dictionary"]),
    "a limit of an unknown split": (
        limited("{trian: 10}"),
        ["data.toy: `limit` has no split 'trian'", "did you mean 'train'?", "test, train, val"],
    ),
    "a limit of a split of one's own": (
        folder_of("splits: {train: a, test: b}, limit: {val: 3}"),
        ["data.toy: `limit` has no split 'val'", "Valid: test, train"],
    ),
    "no splits": (folder_of("splits: {}"), ["data.toy: 'splits' is {}", "at least 1 item"]),
    "a split of nothing": (
        folder_of("splits: {train: null}"),
        ["'splits.train' is None", "string"],
    ),
    "a split outside": (
        folder_of("splits: {train: ../../etc}"),
        ["'splits.train' is '../../etc'", "below the data root", "without `..`"],
    ),
    "a split at the root": (
        folder_of("splits: {train: /etc}"),
        ["'splits.train' is '/etc'", "a relative path"],
    ),
    "a path outside": (folder_of("path: a/../../b"), ["'path' is 'a/../../b'", "without `..`"]),
    "a path in two lines": (
        folder_of('path: "a\\nb"'),
        [r"'path' is 'a\nb'", "control characters"],
    ),
    "a long path": (
        folder_of(f"path: {'a' * 300}"),
        ["'path' is 'aaa", "aaa...", "below the data"],
    ),
    "data sets that differ in case": (
        lines(data="data: {toy: {reader: toy}, Toy: {reader: toy}}"),
        ["'toy' and 'Toy' differ only in case", "rename one"],
    ),
    "splits that differ in case": (
        folder_of("splits: {train: a, TRAIN: b}"),
        ["'train' and 'TRAIN' differ only in case"],
    ),
    "a foreground by nobody": (
        lines(data="data: {toy: {reader: toy}, two: {of: toy, by: foreground/paper/toy}}"),
        ["data.two.by 'foreground/paper/toy'", "method/variant/train/seed"],
    ),
    "a foreground by a seed in other digits": (
        lines(data="data: {toy: {reader: toy}, two: {of: toy, by: foreground/paper/toy/²}}"),
        ["data.two.by", "method/variant/train/seed"],
    ),
    "a foreground by a large seed": (
        lines(
            data="data: {toy: {reader: toy}, two: {of: toy, by: foreground/paper/toy/9999999999}}"
        ),
        ["data.two.by", "the seed is 9999999999", "from 0 to 4294967295"],
    ),
    "a foreground of a number": (
        lines(data="data: {toy: {reader: toy}, two: {of: 5, by: foreground/paper/toy/0}}"),
        ["data.two: 'of' is 5", "valid string"],
    ),
    # The rest.
    "a null for settings": (lines() + "settings: {vae: null}\n", ["'settings.vae' is None"]),
    "no number in settings": (
        lines() + "settings: {vae: {beta: .nan}}\n",
        ["settings.vae: 'beta' is nan", "finite"],
    ),
    "threads of none": (lines(runtime="runtime: {threads: 0}"), ["'runtime.threads' is 0"]),
    "a template of Snakemake's": (
        lines() + "__use_yte__: false\n",
        ["unknown key '__use_yte__'"],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_ends_in_one_message(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content, parts = FILES[name]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = said_by_plan(path, capsys)
    for part in (str(path), *parts):
        assert part in message
    assert "Traceback" not in message
    assert len(message) < 5000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.yaml"]


def test_many_faults_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = ", ".join(f"x{i}" for i in range(1000))
    (tmp_path / "mine.yaml").write_text(lines(seeds=f"seeds: [{seeds}]"))
    message = said_by_plan(tmp_path / "mine.yaml", capsys)
    assert "'seeds.19' is 'x19'" in message
    assert "'seeds.20'" not in message
    assert message.endswith("980 more faults.\n")


def test_what_a_file_may_do(tmp_path: Path) -> None:
    """Anchors, aliases and merge keys, a byte order mark, json; and a key of each mapping."""
    path = tmp_path / "mine.yaml"
    text = (
        "data: {toy: &toy {reader: toy, size: 32}, toy-b: {<<: *toy, size: 64}, toy-c: *toy}\n"
        "runs:\n"
        "  - {train: toy, methods: &m {patchvae: [demo]}, probes: {linear: [toy]}}\n"
        "  - {train: toy-b, methods: *m, probes: {linear: [toy-b]}}\n"
    )
    path.write_text("\N{ZERO WIDTH NO-BREAK SPACE}name: mine\nseeds: [0]\n" + text, "utf-8")
    config = read(path)
    assert config.data["toy-b"] == {"reader": "toy", "size": 64}
    assert config.data["toy-c"] == config.data["toy"]
    assert config.runs[1].methods == {"patchvae": ["demo"]}
    path.write_text(config.model_dump_json())
    assert read(path) == config


@pytest.mark.parametrize("name", ["paper", "demo", "subset"])
def test_the_bounds_leave_room(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configurations of the repository could be ten times as long."""
    monkeypatch.setattr(strict_yaml, "MOST_VALUES", strict_yaml.MOST_VALUES // 10)
    monkeypatch.setattr(strict_yaml, "MOST_BYTES", strict_yaml.MOST_BYTES // 10)
    assert read(Path(f"config/{name}.yaml")).name == name


def test_an_endless_file_and_a_path_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert "longer than" in said_by_plan(Path("/dev/zero"), capsys)
    assert "cannot be read" in said_by_plan(Path("a\0b"), capsys)


def test_a_limit_of_a_split_that_the_files_lack(tmp_path: Path) -> None:
    """Where only the files tell which splits there are, preparation refuses the limit."""

    class Unknown(Folder):
        split_names = None

    settings = Folder.Settings.parse({"splits": {"train": "a"}, "limit": {"trian": 1}}, "test")
    (tmp_path / "in/a").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"data set 'birds': `limit` has no split 'trian'; did you"):
        prepare(Unknown(tmp_path / "in", settings), "birds", tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_a_configuration_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = said_by_plan(tmp_path / "absent.yaml", capsys)
    assert "absent.yaml: cannot be read (No such file" in message
    assert "cannot be read (Is a directory)" in said_by_plan(tmp_path, capsys)


# Processes.


def test_the_process_ends_with_one_message_and_status_1(tmp_path: Path, python: list[str]) -> None:
    path = write_config(tmp_path, changed("seed", value=[0]))
    done = subprocess.run([*python, "plan", str(path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"partbench: {path}: unknown key 'seed'")
    assert "Traceback" not in done.stderr


def test_a_bomb_ends_a_process_with_one_message(tmp_path: Path, python: list[str]) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(LIST_BOMB)
    done = subprocess.run([*python, "plan", str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(f"partbench: {path}, line 5: more than 20,000 keys and values")


@pytest.mark.timeout(300)
def test_snakemake_refuses_before_any_job(tmp_path: Path) -> None:
    """Snakemake reads the file first, and takes the last of two keys."""
    here = Checkout(tmp_path / "partbench")
    kept = here.folder / "results/mine/data/toy/meta.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    good = yaml.safe_dump(GOOD | {"name": "mine"})
    hostile = lines(name="name: $(touch crater)", data="data: {..: {reader: toy}}")
    for content, parts in {
        good + "name: other\n": ["the key 'name' is given twice"],
        hostile: ["'name' is '$(touch crater)'", "'data' has the key '..': a name has at most"],
    }.items():
        (here.folder / "mine.yaml").write_text(content)
        done = here.run("snakemake", "--cores", "1", "--configfile", "mine.yaml")
        assert done.returncode == 1
        for part in ("mine.yaml", *parts):
            assert part in done.stdout
        assert "Traceback" not in done.stdout
        assert kept.exists()
        assert not (here.folder / "crater").exists()


@pytest.mark.timeout(300)
def test_a_dot_in_a_name_stands_for_itself(tmp_path: Path) -> None:
    """Patterns of data sets hold their names: `a.b` must not mean `a-b` as well."""
    here = Checkout(tmp_path / "partbench")
    data = {
        "a.b": {"reader": "toy", "size": 32},
        "a-b": {"of": "a.b", "by": "principal_foreground/demo/a.b/0"},
    }
    block = {"train": "a-b", "methods": {"kmeans": ["demo"]}, "probes": {"parts": ["a-b"]}}
    config = here.configure(GOOD | {"name": "dots", "data": data, "runs": [block]})
    made = [job.output for job in here.planned(config) if job.rule in ("prepare", "foreground")]
    assert made == ["results/dots/data/a.b/meta.json", "results/dots/data/a-b/meta.json"]
