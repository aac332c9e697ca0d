"""Names become paths and parts of command lines: what they may be, and that all are quoted."""

import ast
import io
import string
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkout import REPOSITORY
from hypothesis import example, given, settings
from hypothesis import strategies as st

from partbench import cli
from partbench.config import check
from partbench.errors import BadInput
from partbench.names import split_of

INSIDE = string.ascii_letters + string.digits + "_-."
FIRST = string.ascii_letters + string.digits + "_"
LAST = FIRST + "-"
RESERVED = (".part", ".json", ".html")
HOSTILE = [
    *("", ".", "..", "/", "/etc", "../results", "a/b", "a/", "./a", "~", ".hidden", "end."),
    *("'", '"', "a'b", 'a"b', "`touch crater`", "$(touch crater)", "${HOME}", "a;b", "a|b", "a&b"),
    *("a>b", "a b", " ", " a", "a ", "a\tb", "a\nb", "a\n", "\n", "a\r", "a\0b", "\0", "a\x1b[2J"),
    *("-", "-rf", "--config", "*", "?", "[a]", "{a}", "{input}", "!a", "#a", "%s", "a:b", "a,b"),
    *("\\", "a\\b", "a=b", "a@b", "a" * 65, "a" * 300, "a." * 150, "\N{CYRILLIC SMALL LETTER O}"),
    *("t\N{CYRILLIC SMALL LETTER O}y", "\N{FULLWIDTH LATIN SMALL LETTER T}oy", "to\u200by"),
    *(
        "\N{ARABIC-INDIC DIGIT THREE}",
        "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
        "\ud800",
        "a\u2028b",
    ),
    *("toy.part", "toy.files.json", "index.html", "TOY.JSON"),
]
Place = Callable[[str], dict[str, Any]]


def config(**changes: Any) -> dict[str, Any]:
    """Return a good configuration, some keys as given."""
    return {
        "name": "test",
        "seeds": [0],
        "data": {"toy": {"reader": "toy", "size": 32}},
        "runs": [block()],
    } | changes


def block(**changes: Any) -> dict[str, Any]:
    good = {"train": "toy", "methods": {"patchvae": ["demo"]}, "probes": {"linear": ["toy"]}}
    return good | changes


def data(**changes: Any) -> dict[str, Any]:
    return config(data={"toy": {"reader": "toy", "size": 32}} | changes)


PLACES: dict[str, Place] = {
    "name": lambda name: config(name=name),
    "data set": lambda name: data(**{name: {"reader": "toy"}}),
    "reader": lambda name: data(other={"reader": name}),
    "limit": lambda name: data(other={"reader": "folder", "limit": {name: 1}}),
    "split": lambda name: data(other={"reader": "folder", "splits": {name: "train"}}),
    "of": lambda name: data(other={"of": name, "by": "foreground/paper/toy/0"}),
    "of, with neighbours": lambda name: data(other={"of": name, "neighbours": {}}),
    "of, with flow": lambda name: data(other={"of": name, "flow": {}}),
    "stream": lambda name: data(other={"of": "toy", "by": "pooling/demo/toy/0", "stream": name}),
    "by": lambda name: data(other={"of": "toy", "by": name}),
    "by, method": lambda name: data(other={"of": "toy", "by": f"{name}/paper/toy/0"}),
    "by, variant": lambda name: data(other={"of": "toy", "by": f"foreground/{name}/toy/0"}),
    "by, data": lambda name: data(other={"of": "toy", "by": f"foreground/paper/{name}/0"}),
    "by, seed": lambda name: data(other={"of": "toy", "by": f"foreground/paper/toy/{name}"}),
    "settings": lambda name: config(settings={name: {}}),
    "probe settings": lambda name: config(probes={name: {}}),
    "train": lambda name: config(runs=[block(train=name)]),
    "method": lambda name: config(runs=[block(methods={name: ["demo"]})]),
    "variant": lambda name: config(runs=[block(methods={"patchvae": [name]})]),
    "added variant": lambda name: config(runs=[block(methods={"patchvae": [f"demo+{name}"]})]),
    "probe": lambda name: config(runs=[block(probes={name: ["toy"]})]),
    "data of a probe": lambda name: config(runs=[block(probes={"linear": [name]})]),
}


def refusal(values: dict[str, Any]) -> str:
    """Return the message with which a configuration is refused; it can be printed."""
    with pytest.raises(BadInput) as caught:
        check(values, "mine.yaml")
    message = str(caught.value)
    assert message.startswith("mine.yaml: ")
    assert all(line.isprintable() for line in message.split("\n"))
    assert len(message) < 5000
    return message


def test_the_configuration_itself_is_good() -> None:
    """Else the tests that it is refused would prove nothing."""
    check(config(), "mine.yaml")


@pytest.mark.parametrize("place", PLACES)
def test_hostile_names_are_refused(place: str) -> None:
    for name in HOSTILE:
        refusal(PLACES[place](name))


characters = st.characters(exclude_characters=INSIDE + "+")
hostile = st.builds(
    lambda before, character, after: before + character + after,
    st.text(INSIDE, max_size=10),
    characters,
    st.text(max_size=10),
) | st.text(INSIDE, min_size=65, max_size=300)


@settings(max_examples=200)
@given(place=st.sampled_from(sorted(PLACES)), name=hostile)
def test_drawn_hostile_names_are_refused(place: str, name: str) -> None:
    refusal(PLACES[place](name))


valid = st.builds(
    lambda first, middle, last: first + middle + last,
    st.sampled_from(FIRST),
    st.text(INSIDE, max_size=62),
    st.sampled_from(LAST),
).filter(lambda name: not name.lower().endswith(RESERVED)) | st.sampled_from(FIRST)


@settings(max_examples=50)
@given(names=st.lists(valid, min_size=4, max_size=4, unique_by=str.lower))
@example(["a.b-c_d", "0", "_", "x" * 64])
def test_valid_names_are_accepted(names: list[str]) -> None:
    name, data_set, train, test = names
    values = {
        "reader": "folder",
        "splits": {train: "a", test: "b c/\N{LATIN SMALL LETTER E WITH ACUTE}"},
        "limit": {train: 5},
    }
    runs = [block(train=data_set, probes={"linear": [data_set]})]
    accepted = check(config(name=name, data={data_set: values}, runs=runs), "mine.yaml")
    assert accepted.name == name
    assert list(accepted.data) == [data_set]


@pytest.mark.parametrize(
    ("place", "place_of_key"),
    [("name", "'name' is"), ("data set", "'data' has the key"), ("train", "'runs.0.train' is")],
)
def test_the_message_says_what_a_name_may_be(place: str, place_of_key: str) -> None:
    message = refusal(PLACES[place]("a\n$(b)"))
    assert (
        f"mine.yaml: {place_of_key} 'a\\n$(b)': a name has at most 64 characters: a to z" in message
    )


@pytest.mark.parametrize("name", ["..", "", "a\nb", "$(touch crater)", "a" * 300])
@pytest.mark.parametrize(
    "arguments",
    [
        "fetch --reader toy --settings {} --out {out} --data-set",
        "prepare --reader toy --settings {} --out {out} --data-set",
        "foreground --model {out} --data {out} --out {out} --data-set",
        "scenes --data {out} --out {out} --data-set",
        "fetch --data-set toy --settings {} --out {out} --reader",
        "train --settings {} --data {out} --out {out} --run",
        "probe linear --source {out} --data {out} --settings {} --out {out} --run",
        "probe --run vae/paper/toy/0 --source {out} --data {out} --settings {} --out {out} --",
        "data show --out {out}",
    ],
)
def test_hostile_names_on_a_command_line(
    arguments: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    *given, last = [word.replace("{out}", str(out)) for word in arguments.split()]
    if last == "--run":
        name = f"vae/{name}/toy/0"
    words = [*given, f"{last}={name}"] if last.startswith("--") and last != "--" else None
    assert cli.main(words or [*given, last, name]) == 1
    message = capsys.readouterr().err
    assert message.startswith("partbench: ")
    assert "Traceback" not in message
    assert message.rstrip("\n").isprintable()
    assert list(tmp_path.iterdir()) == []


# Quotes.


def shell_commands(path: Path) -> list[str]:
    """Return the commands of a file of rules: the strings after `shell:` and in `shell(`."""
    tokens = list(tokenize.generate_tokens(io.StringIO(path.read_text()).readline))
    blank = (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.COMMENT)
    commands = []
    for i, token in enumerate(tokens[:-1]):
        if token.string != "shell" or tokens[i + 1].string not in (":", "("):
            continue
        command = ""
        for following in tokens[i + 2 :]:
            if following.type == tokenize.STRING:
                command += ast.literal_eval(following.string)  # fails on an f-string
            elif following.type not in blank:
                break
        commands.append(command)
    return commands


def unquoted(command: str) -> list[str]:
    """Return what a command takes in without quotes."""
    fields = string.Formatter().parse(command)
    return [name for _, name, spec, _ in fields if name is not None and spec != "q"]


RULES = [REPOSITORY / "Snakefile", *sorted((REPOSITORY / "workflow").rglob("*.smk"))]


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_every_value_in_a_shell_command_is_quoted(path: Path) -> None:
    commands = shell_commands(path)
    begin = ("python -m partbench ", "exec python -m partbench ")
    assert all(command.startswith(begin) for command in commands)
    assert {command: names for command in commands if (names := unquoted(command))} == {}


def test_all_shell_commands_are_found(tmp_path: Path) -> None:
    assert sum(len(shell_commands(path)) for path in RULES) == 16
    path = tmp_path / "rules.smk"
    path.write_text('rule a:\n    shell:\n        "b {c:q}"\n        " {d} > {log:q}"\n')
    assert shell_commands(path) == ["b {c:q} {d} > {log:q}"]
    assert unquoted(*shell_commands(path)) == ["d"]


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("ucf101-2", "ucf101"),
        ("ucf101-flow-3", "ucf101-flow"),
        ("mafl-stretch100", "mafl-stretch100"),
    ]
    + [(name, name) for name in ("toy", "ucf101", "ucf101-0", "ucf101-12", "a-1b")],
)
def test_official_splits(name: str, whole: str) -> None:
    assert split_of(name) == whole
