"""The grid of the configuration, as file names; every function of the workflow stands here."""

import os
import re
import sys
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

# The jobs run the same Python as Snakemake does, with partbench from this checkout, wherever
# `--directory` puts the results. An installed partbench is where Python finds it.
os.environ.update(PATH=f"{Path(sys.executable).parent}:{os.getenv('PATH', '')}", PYTHONSAFEPATH="1")
if Path(workflow.basedir, "partbench").is_dir():
    sys.path.insert(0, workflow.basedir)
    os.environ.update(PYTHONPATH=f"{workflow.basedir}:{os.getenv('PYTHONPATH', '')}".rstrip(":"))
# Jobs stand side by side: threads that wait must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# glibc gives a freed batch back to the kernel and takes it anew, page by page: a fifth of the
# processor time of an extraction. Above 4 GiB it still does.
os.environ.setdefault(
    "GLIBC_TUNABLES",
    f"glibc.malloc.mmap_threshold={2**32}:glibc.malloc.trim_threshold={2**32}",
)

from partbench import config as grid
from partbench import absent, fingerprint, jobs, plugins
from partbench.data import catalogue, placed
from partbench.errors import BadInput
from partbench.files import check_places, data_root
from partbench.forkserver import Server
from partbench.method import Method, needed_weights
from partbench.outputs.capability import offered_by
from partbench.probe import Probe
from partbench.scheduling import look_again_once
from partbench.settings import dump
from partbench.strict_yaml import read_mapping

look_again_once()
ENVIRONMENT = f"{workflow.basedir}/environment.yml"

try:
    # Snakemake has read the files, and taken the last of keys that are given twice.
    FOLDER = None  # paths of plugins count from the file that names them
    for path in workflow.configfiles:
        if (
            "plugins" in (given := read_mapping(Path(path)))
            and given["plugins"] == config["plugins"]
        ):
            FOLDER = Path(path).parent
    CONFIG = grid.check(config, " + ".join(map(str, workflow.configfiles)), FOLDER)
    RESULTS = f"results/{CONFIG.name}"
    check_places(Path(RESULTS))
    # What waits for a file that a person must place does not hold up the rest.
    ABSENT = absent.absent_cells(CONFIG, Path(RESULTS))
except BadInput as error:
    raise WorkflowError(str(error)) from None

REPORT = "report/index.html" if CONFIG.name == "paper" else f"report/{CONFIG.name}/index.html"
GPUS = 0 if CONFIG.runtime.device == "cpu" else 1
NODES = {}  # of a training
if CONFIG.runtime.processes > 1:
    NODES["nodes"] = CONFIG.runtime.nodes  # or Slurm may spread its GPUs
if CONFIG.runtime.nodes > 1:
    # One job, which starts its processes by srun itself. `gres` counts the GPUs of each node.
    NODES |= {"tasks": CONFIG.runtime.nodes, "mpi": "srun"}
    if GPUS:
        NODES |= {"gres": f"gpu:{CONFIG.runtime.devices}", "tasks_per_gpu": 0}
FITTING = [cell for cell in grid.cells(CONFIG) if not cell.skip]
CELLS = [cell for cell in FITTING if str(cell) not in ABSENT]
RUNS = sorted({cell.run for cell in CELLS})
PREDICTED = {
    name: predicted
    for name in CONFIG.data
    if (predicted := grid.predicted_foreground(CONFIG, name))
}
SCENES = {name: scenes for name in CONFIG.data if (scenes := grid.scene_neighbours(CONFIG, name))}
CLUSTERED = {
    name: clusters for name in CONFIG.data if (clusters := grid.pseudo_labels(CONFIG, name))
}
FLOWS = {name: flow for name in CONFIG.data if (flow := grid.optical_flow(CONFIG, name))}
STREAMS = {name: second for name in CONFIG.data if (second := grid.second_stream(CONFIG, name))}
METHODS = sorted({run.method for run in grid.runs(CONFIG)})
PROBES = sorted({cell.probe for cell in FITTING})
PROBE_CLASSES = {probe: plugins.load("probes", probe, Probe) for probe in PROBES}


def data_set_code(wildcards):
    return fingerprint.of_preparation(CONFIG.data[wildcards.data_set]["reader"])


def data_set_reader(wildcards):
    return CONFIG.data[wildcards.data_set]["reader"]


def data_set_files(wildcards):
    return digest_of_files(wildcards.data_set)


@cache  # Snakemake asks several times, and a look takes up to a second
def digest_of_files(name):
    """Return a digest of the files that a person placed, by names, sizes and times."""
    reader = grid.load_reader(CONFIG, name)(data_root(), grid.data_settings(CONFIG, name))
    recorded = catalogue.recorded_files(Path(f"{RESULTS}/data/{name}.files.json"))
    return placed.digest(reader, recorded)


def weights_files(wildcards):
    return digest_of_weights(wildcards.weights)


@cache
def digest_of_weights(name):
    """Return a digest of the files of weights that no published checksum covers."""
    recorded = catalogue.recorded_files(Path(f"{RESULTS}/weights/{name}.files.json"))
    return catalogue.digest_of_weights(name, data_root(), recorded)


def names_of(chosen):
    """Return a pattern of some data sets, for a rule that makes them alone."""
    return "|".join(map(re.escape, chosen)) or "(?!)"


def model_of_foreground(wildcards):
    return f"{RESULTS}/runs/{PREDICTED[wildcards.data_set].run}/model.pt"


def data_of_foreground(wildcards):
    return f"{RESULTS}/data/{PREDICTED[wildcards.data_set].of}/meta.json"


def images_of_foreground(wildcards):
    """Return the data set in whose images the foreground is found before they are cut, if any."""
    name = PREDICTED[wildcards.data_set].found_in
    return f"{RESULTS}/data/{name}/meta.json" if name else []


def folder_of_images(wildcards):
    name = PREDICTED[wildcards.data_set].found_in
    return f"{RESULTS}/data/{name}" if name else ""


def data_of_scenes(wildcards):
    return f"{RESULTS}/data/{SCENES[wildcards.data_set].of}/meta.json"


def weights_of_scenes(wildcards):
    fetched = SCENES[wildcards.data_set].neighbours.fetched
    return [f"{RESULTS}/weights/{name}.files.json" for name in fetched]


def settings_of_scenes(wildcards):
    return dump(SCENES[wildcards.data_set].neighbours)


def code_of_scenes(wildcards):
    return fingerprint.of_scenes(CONFIG.data[SCENES[wildcards.data_set].of]["reader"])


def model_of_clusters(wildcards):
    return f"{RESULTS}/runs/{CLUSTERED[wildcards.data_set].run}/model.pt"


def data_of_clusters(wildcards):
    return f"{RESULTS}/data/{CLUSTERED[wildcards.data_set].of}/meta.json"


def settings_of_clusters(wildcards):
    return dump(CLUSTERED[wildcards.data_set].clustering)


def code_of_clusters(wildcards):
    return fingerprint.of_clusters(CLUSTERED[wildcards.data_set].run.method)


def data_of_flow(wildcards):
    return f"{RESULTS}/data/{FLOWS[wildcards.data_set].of}/meta.json"


def weights_of_flow(wildcards):
    fetched = FLOWS[wildcards.data_set].flow.fetched
    return [f"{RESULTS}/weights/{name}.files.json" for name in fetched]


def settings_of_flow(wildcards):
    return dump(FLOWS[wildcards.data_set].flow)


def code_of_flow(wildcards):
    return fingerprint.of_flow(CONFIG.data[FLOWS[wildcards.data_set].of]["reader"])


def model_of_second_stream(wildcards):
    return f"{RESULTS}/runs/{STREAMS[wildcards.data_set].run}/model.pt"


def data_of_first_stream(wildcards):
    return f"{RESULTS}/data/{STREAMS[wildcards.data_set].of}/meta.json"


def data_of_second_stream(wildcards):
    return f"{RESULTS}/data/{STREAMS[wildcards.data_set].stream}/meta.json"


def folder_of_stream(wildcards, input):
    return str(Path(input.stream).parent)


def code_of_second_stream(wildcards):
    return fingerprint.of_second_stream(STREAMS[wildcards.data_set].run.method)


def data_set_settings(wildcards):
    return dump(grid.data_settings(CONFIG, wildcards.data_set))


# A change of a parameter that is made from input or output makes no job run again, so settings
# must be functions of the wildcards alone.
def train_settings(method):
    """Return the function of the wildcards that gives a run's settings."""

    def settings(wildcards):
        return dump(grid.method_settings(CONFIG, method, wildcards.variant))

    return settings


def weights_of(method):
    """Return the function of the wildcards that gives the trained networks a run needs."""
    cls = plugins.load("methods", method, Method)

    def weights(wildcards):
        settings = grid.method_settings(CONFIG, method, wildcards.variant)
        needed = needed_weights(cls, settings)
        return [f"{RESULTS}/weights/{name}.files.json" for name in needed]

    return weights


def extraction_code(wildcards):
    """Return the fingerprint of writing outputs and drawing all that a run's method offers."""
    return code_of_outputs(wildcards.run.partition("/")[0])


@cache  # it walks through the source, and Snakemake asks for every cell
def code_of_outputs(method):
    return fingerprint.of_extraction(offered_by(plugins.load("methods", method, Method)))


def needs_of_probe(wildcards):
    """Return what a probe reads of a run's outputs, separated by commas."""
    return ",".join(PROBE_CLASSES[wildcards.probe].needs)


def probe_settings(probe):
    """Return the function of the wildcards that gives a cell's settings."""

    def settings(wildcards):
        return dump(grid.probe_settings(CONFIG, probe, wildcards.eval))

    return settings


def weights_of_probe(probe):
    """Return the function of the wildcards that gives the trained networks a cell needs."""

    def weights(wildcards):
        settings = grid.probe_settings(CONFIG, probe, wildcards.eval)
        needed = PROBE_CLASSES[probe].weights(settings)
        return [f"{RESULTS}/weights/{name}.files.json" for name in needed]

    return weights


def runtime(wildcards, output):
    """Return how to compute; made from output, so that more threads train nothing again."""
    return dump(CONFIG.runtime)


def more(amount):
    """Return the function that asks for as much of a resource again with each attempt."""

    def scaled(wildcards, attempt):
        return amount * attempt

    return scaled


def folder_of_model(wildcards, output):
    return str(Path(output.model).parent)


def folder_of_meta(wildcards, input):
    return str(Path(input.data).parent)


def folder_of_config(wildcards, input):
    return str(Path(input.config).parent)
