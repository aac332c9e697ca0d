"""`partbench run` and `partbench init`, and where what comes with partbench is found."""

import shlex
from pathlib import Path

import pytest
from checkout import REPOSITORY, TINY, Checkout

from partbench import config, shipped, workflow
from partbench.cli import main
from partbench.errors import BadInput
from partbench.plan import plan


def test_in_a_checkout_the_command_is_the_readme_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    path = shipped.configuration("demo")
    assert path == Path("config/demo.yaml")
    words = workflow.command(path, ["--cores", "8", "--profile", "slurm", "-R", "train_dlp"])
    assert shlex.join(words) == (
        "snakemake --configfile config/demo.yaml --rerun-incomplete "
        "--cores 8 --profile slurm -R train_dlp"
    )


def test_elsewhere_all_comes_from_partbench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = shipped.configuration("demo")
    assert path == REPOSITORY / "config/demo.yaml"
    snakefile = str(REPOSITORY / "Snakefile")

    def options(*given: str) -> list[str]:
        words = workflow.command(path, given)
        start = words.index("--snakefile")
        assert words[start + 1] == snakefile
        return words[start + 2 :]

    for form in (["--profile", "slurm"], ["--profile=slurm"]):
        assert shlex.join(options(*form)).endswith(f"{REPOSITORY}/slurm")
    assert options("--profile", "mine") == ["--profile", "mine"]
    assert options("-R", "slurm") == ["-R", "slurm"]
    (tmp_path / "slurm").mkdir()
    assert options("--profile", "slurm") == ["--profile", "slurm"]  # one's own comes first
    words = workflow.command(path, ["-n"])
    assert int(words[words.index("--cores") + 1]) >= 1
    for cores in ("-c4", "--cores=4", "-j4"):
        assert "--cores" not in workflow.command(path, [cores])


def test_a_configuration_is_a_file_or_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo.yaml").write_text(TINY)
    assert shipped.configuration("demo") == REPOSITORY / "config/demo.yaml"
    assert shipped.configuration("demo.yaml") == Path("demo.yaml")
    (tmp_path / "demo").write_text(TINY)
    assert shipped.configuration("demo") == Path("demo")
    with pytest.raises(BadInput, match=r"did you mean 'demo'\? .*\. `partbench init` writes one"):
        shipped.configuration("dmo")
    with pytest.raises(BadInput, match=r"config/demo\.yaml: cannot be read \(No such file"):
        config.read(shipped.configuration("config/demo.yaml"))


@pytest.mark.timeout(300)
def test_targets_follow_the_configuration(tmp_path: Path) -> None:
    here = Checkout(tmp_path / "partbench")
    (here.folder / "tiny.yaml").write_text(TINY)
    target = "results/tiny/data/toy.files.json"
    done = here.run("partbench", "run", "tiny.yaml", "--", target, "--cores", "1")
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith(
        f"snakemake --configfile tiny.yaml --rerun-incomplete {target} --cores 1\n"
    )
    assert (here.folder / target).exists()
    assert not (here.folder / "results/tiny/config.json").exists()
    (here.folder / "bad.yaml").write_text("__use_yte__: true\nname: a\nname: b\n")
    done = here.run("partbench", "run", "bad.yaml")
    assert done.returncode == 1
    assert "the key 'name' is given twice" in done.stdout
    assert "snakemake" not in done.stdout


def test_init_writes_a_configuration_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "owls", "--profile", "slurm"]) == 0
    assert capsys.readouterr().out.split() == ["owls.yaml", "slurm"]
    text = Path("owls.yaml").read_text()
    assert "birds" not in text
    assert "your own images" in text
    read = config.read(Path("owls.yaml"))
    assert (read.name, list(read.data), read.plugins) == ("owls", ["owls"], [])
    assert len(config.runs(read)) == 9
    assert (tmp_path / "slurm/partitions.yaml").is_file()
    assert main(["init", "owls"]) == 1
    assert "owls.yaml is there already" in capsys.readouterr().err
    assert main(["init", "a b"]) == 1
    assert main(["init", "demo"]) == 1
    assert "a configuration of partbench's own" in capsys.readouterr().err
    assert main(["init", "kites", "--profile", "slrum"]) == 1
    assert "did you mean 'slurm'?" in capsys.readouterr().err
    assert not Path("kites.yaml").exists()


def test_a_plan_for_the_cpu_counts_hours_of_cores(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    learning = TINY.replace("train: 16", "train: 64").replace("raw_pixels: [paper]", "vae: [demo]")
    texts, totals = {}, {}
    for device in ("cpu", "cuda"):
        path.write_text(learning.replace("device: cpu", f"device: {device}"))
        texts[device] = plan(config.read(path))
        total = plan(config.read(path), 1e-5).splitlines()[2]
        totals[device] = total.split()[-1]
    assert "  CPU hours    GiB  rate\n" in texts["cpu"]
    assert "\nCPU hours assume 0.05 TFLOP/s sustained by a core (--tflops)" in texts["cpu"]
    assert "  GPU hours    GiB fits  rate\n" in texts["cuda"]
    assert "\nGPU hours assume 10 TFLOP/s sustained (--tflops)" in texts["cuda"]
    assert float(totals["cpu"]) == float(totals["cuda"]) > 0


def test_an_option_without_dashes_before_it_is_explained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in (["run", "demo", "-n"], ["plan", "demo", "-n"]):
        with pytest.raises(SystemExit, match="2"):
            main(words)
        said = capsys.readouterr().err
        assert "unrecognized arguments: -n" in said
        explained = "Snakemake's own stand after `--`: partbench run CONFIG [-- OPTION ...]" in said
        assert explained is (words[0] == "run")
