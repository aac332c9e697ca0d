"""`partbench cite`: every method, probe, data set and network has its works, complete."""

import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from partbench import citations, config, fingerprint, plugins, references
from partbench.cli import main
from partbench.data.reader import Reader
from partbench.errors import BadInput
from partbench.method import Method
from partbench.probe import Probe

BASES: dict[str, Any] = {"methods": Method, "probes": Probe, "data": Reader}
NOBODY_S = {
    "methods": {"mean_shape", "pooling", "random_keypoints", "random_parts", "raw_pixels"},
    "probes": set(),
    "data": {"folder", "toy"},
}
"""Controls that no paper brought up, and data that are the user's or partbench's own."""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(plugins.VARIABLE, "")
    yield
    plugins._used.clear()
    for name in [name for name in sys.modules if name.startswith(plugins.PREFIX)]:
        del sys.modules[name]


def keys(text: str) -> list[str]:
    return re.findall(r"^@\w+\{(.*),$", text, re.MULTILINE)


@pytest.mark.parametrize("kind", BASES)
def test_all_that_comes_with_partbench_names_its_works(kind: str) -> None:
    without = set()
    for name in plugins.names(kind, BASES[kind]):
        cls = plugins.load(kind, name, BASES[kind])
        works = references.resolve(cls.references, name)
        assert len({work.key for work in works}) == len(works)
        without |= set() if works else {name}
    assert without == NOBODY_S[kind]


def test_every_work_is_complete_and_of_use() -> None:
    text = references.FILE.read_text()
    works = references.library()
    assert len(works) == text.count("\n@") + 1
    used = {key for keys in references.NETWORKS.values() for key in keys}
    for kind, base in BASES.items():
        for name in plugins.names(kind, base):
            used |= {*plugins.load(kind, name, base).references}
    compared = {"thewlis2019dve", "vanderklis2023pdisconet", "xia2025mpae"}  # published.csv's
    assert used | compared == set(works)
    for work in works.values():
        assert work.bibtex in text  # as it is written there
        assert re.fullmatch(r"(19|20)\d\d", work.year)
        first = unicodedata.normalize("NFD", work.authors[0].lower())
        assert work.key.startswith(re.sub(r"[^a-z]", "", first) + work.year)
        assert not re.search(r"[{}\\]", f"{work.title}{work.venue}{''.join(work.authors)}")
    assert works["binkowski2018kid"].authors[0] == "Bińkowski"
    assert works["collins2018dff"].people == "Collins, Achanta and Süsstrunk"
    assert works["caron2021dino"].people == "Caron et al."


def test_the_works_behind_the_paper_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", "paper"]) == 0
    text = capsys.readouterr().out
    found = keys(text)
    assert len(found) == len(set(found))
    assert set(found) > {
        *("gupta2020patchvae", "daniel2022dlp", "choudhury2021parts", "qiu2017fvvae"),  # methods
        *("heusel2017fid", "alain2017probes"),  # probes
        *("liu2015celeba", "zhang2014mafl", "wah2011cub", "coates2011stl"),  # data sets
        *("simonyan2015vgg", "he2016resnet", "caron2021dino", "caron2020swav"),  # networks
        *("szegedy2016inception", "teed2020raft", "caron2018deepcluster", references.IMAGENET),
    }
    assert {"howard2017mobilenets", "zach2007tvl1", "hu2018mix"}.isdisjoint(found)
    assert len(references.parse(text, "cite")) == len(found)
    users = {
        key: re.search(rf"^% (.*)\n@\w+{{{key},", text, re.MULTILINE)[1]  # type: ignore[index]
        for key in found
    }
    assert users["donahue2017bigan"] == "method bigan"
    assert "network of dlp" in users["simonyan2015vgg"]
    assert users["zhang2014mafl"] == "data set mafl"
    assert "network of generation" in users["szegedy2016inception"]
    assert "%   mafl: non-commercial research (CelebA's)" in text
    assert "%   stl10: not stated" in text
    assert "@" not in "".join(line for line in text.splitlines() if line.startswith("%"))


def values(**changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "seeds": [0],
        "data": {"toy": {"reader": "toy", "size": 32, "train": 8, "val": 1, "test": 8}},
        "runs": [{"train": "toy", "methods": {"vae": ["demo"]}, "probes": {"linear": ["toy"]}}],
    } | changes


@pytest.mark.parametrize(
    ("methods", "extra", "works"),
    [
        ({"keynet": ["k10"]}, {}, {"simonyan2015vgg", references.IMAGENET}),
        ({"keynet": ["untrained"]}, {}, set()),
        ({"keynet": ["k10"]}, {"keynet": {"perceptual": "pixels"}}, set()),
        (
            {"keynet": ["k10"]},
            {"keynet": {"perceptual": "mobilenet"}},
            {"howard2017mobilenets", references.IMAGENET},
        ),
    ],
)
def test_networks_follow_from_the_settings(
    methods: dict[str, Any], extra: dict[str, Any], works: set[str]
) -> None:
    block = {"train": "toy", "methods": methods, "probes": {"landmarks": ["toy"]}}
    found = citations.cited(config.check(values(runs=[block], settings=extra), "test"))
    of_networks = {work.key for work, users in found if "network of keynet" in users}
    assert of_networks == works


OWN = """@Article{me2026owls,
  title = "Owls in {3D}, {\\"u}ber alles",
  author = {Jane Q. Doe and M{\\'e}, Zo{\\"e} and others},
  journal = {Journal of Owls}, volume = 3,
  year = 2026
}
"""
PLUGIN = '''"""Colours."""

from torch import Tensor

from partbench.method import StepFreeMethod


class Mine(StepFreeMethod):
    """The mean colour."""

    references = ({reference}, "kingma2014vae")

    def features(self, images: Tensor) -> Tensor:
        """Return the mean colour."""
        return images.mean((2, 3))
'''


def plugin(folder: Path, reference: str, name: str = "mine") -> Path:
    file = folder / "methods" / f"{name}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(PLUGIN.replace("{reference}", reference))
    return file


def test_a_method_from_elsewhere_brings_its_bibtex(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plugin(tmp_path / "plugins", f'"""{OWN}"""')
    block = {"train": "toy", "methods": {"mine": ["paper"]}, "probes": {"linear": ["toy"]}}
    text = json.dumps(values(plugins=["plugins"], runs=[block]))
    (tmp_path / "tiny.yaml").write_text(text)
    assert main(["cite", "tiny.yaml"]) == 0
    said = capsys.readouterr().out
    assert {"me2026owls", "kingma2014vae"} < set(keys(said))
    assert "% method mine\n@article{me2026owls,\n" in said
    (work,) = references.parse(OWN, "test")
    assert work.title == "Owls in 3D, über alles"
    assert work.authors == ("Doe", "Mé", "others")
    assert str(work) == "Doe, Mé and others: Owls in 3D, über alles. Journal of Owls, 2026."


def test_what_a_method_cites_makes_nothing_run_again(tmp_path: Path) -> None:
    found = []
    for i, reference in enumerate(('"he2016resnet"', '"hu2018mix"')):
        folder = tmp_path / str(i) / "mine"
        plugin(folder, reference)
        os.environ[plugins.VARIABLE] = str(folder)
        found.append(fingerprint.of_training("mine"))
    assert found[0] == found[1]
    file = plugin(tmp_path / "2" / "mine", '"he2016resnet"')
    file.write_text(file.read_text().replace("references", "weight_names"))
    os.environ[plugins.VARIABLE] = str(tmp_path / "2" / "mine")
    assert fingerprint.of_training("mine") != found[0]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("he2016resnt", r"mine: no work 'he2016resnt' in .*; did you mean 'he2016resnet'\?"),
        ("@article{a, title={T}, author={A}, year=2026}", "mine: a: the entry lacks venue; add it"),
        ("@misc{a, howpublished={H}}", "lacks author and title and year"),
        ("@article{a, title={T}, author={A", "a value has no end"),
        ("@article{a, title={T} author}", "a closing brace is expected before 'author}'"),
        ("me@here.org", "holds no BibTeX entry"),
    ],
)
def test_bad_references_are_explained(entry: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        references.resolve([entry], "mine")


def test_one_key_is_one_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = OWN.replace("me2026owls", "kingma2014vae")
    plugin(tmp_path / "plugins", f'"""{other}"""')
    block = {"train": "toy", "methods": {"mine": ["paper"]}, "probes": {"linear": ["toy"]}}
    read = config.check(values(plugins=["plugins"], runs=[block]), "test", tmp_path)
    with pytest.raises(BadInput, match="name different works kingma2014vae"):
        citations.cited(read)
