"""The grid of the configuration, as file names; every function of the workflow stands here."""

import ast
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)
# The jobs run the same Python as Snakemake does, with partbench from this checkout.
os.environ.update(PATH=f"{Path(sys.executable).parent}:{os.getenv('PATH', '')}")
# Jobs stand side by side: threads that wait must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from partbench import config as grid
from partbench import plugins
from partbench.errors import BadInput
from partbench.forkserver import Server
from partbench.method import Method
from partbench.probe import Probe

ENVIRONMENT = f"{workflow.basedir}/environment.yml"

try:
    CONFIG = grid.check(config, " + ".join(map(str, workflow.configfiles)))
except BadInput as error:
    raise WorkflowError(str(error)) from None

RESULTS = f"results/{CONFIG.name}"
REPORT = "report/index.html" if CONFIG.name == "paper" else f"report/{CONFIG.name}/index.html"
GPUS = 0 if CONFIG.runtime.device == "cpu" else CONFIG.runtime.devices
CELLS = [cell for cell in grid.cells(CONFIG) if not cell.skip]
RUNS = sorted({cell.run for cell in CELLS})
FOUND = {name: grid.found_foreground(CONFIG, name) for name in CONFIG.data}
METHODS = sorted({run.method for run in grid.runs(CONFIG)})
PROBES = sorted({cell.probe for cell in CELLS})
PROBE_CLASSES = {probe: plugins.load("probes", probe, Probe) for probe in PROBES}


def sources(package, name):
    """Return the file of a method, reader or probe, and those of its kind that it imports."""
    found, waiting = set(), [f"partbench/{package}/{name}.py"]
    while waiting:
        path = waiting.pop()
        found.add(path)
        for node in ast.walk(ast.parse(Path(workflow.basedir, path).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                parts = node.module.split(".")
                if parts[:-1] in (["partbench", package], ["partbench", "nn"]):
                    waiting.append(str(Path(*parts).with_suffix(".py")))
        waiting = [p for p in waiting if p not in found]
    return sorted(found)


def data_set_code(wildcards):
    return sources("data", CONFIG.data[wildcards.data_set]["reader"])


def data_set_reader(wildcards):
    return CONFIG.data[wildcards.data_set]["reader"]


def names_of(found):
    """Return a pattern of the data sets whose foreground is found by a run, or not."""
    return "|".join(name for name in CONFIG.data if bool(FOUND[name]) == found)


def model_of_foreground(wildcards):
    return f"{RESULTS}/runs/{FOUND[wildcards.data_set].run}/model.pt"


def data_of_foreground(wildcards):
    return f"{RESULTS}/data/{FOUND[wildcards.data_set].of}/meta.json"


def data_set_settings(wildcards):
    return grid.dump(grid.data_settings(CONFIG, wildcards.data_set))


# A change of a parameter that is made from input or output makes no job run again, so settings
# must be functions of the wildcards alone.
def train_settings(method):
    """Return the function of the wildcards that gives a run's settings."""

    def settings(wildcards):
        return grid.dump(grid.method_settings(CONFIG, method, wildcards.variant))

    return settings


def weights_of(method):
    """Return the function of the wildcards that gives the trained networks a run needs."""
    cls = plugins.load("methods", method, Method)

    def weights(wildcards):
        settings = grid.method_settings(CONFIG, method, wildcards.variant)
        needed = cls.weights(settings) if settings.epochs else ()
        return [f"{RESULTS}/weights/{name}.files.json" for name in needed]

    return weights


def needs_of_probes(wildcards):
    """Return what the probes read of a run's outputs on a data set, separated by commas."""
    cells = [
        cell for cell in CELLS if (str(cell.run), cell.eval) == (wildcards.run, wildcards.eval)
    ]
    needs = {need for cell in cells for need in PROBE_CLASSES[cell.probe].needs}
    return ",".join(sorted(needs))


def probe_settings(probe):
    """Return the function of the wildcards that gives a cell's settings."""

    def settings(wildcards):
        return grid.dump(grid.probe_settings(CONFIG, probe, wildcards.eval))

    return settings


def runtime(wildcards, output):
    """Return how to compute; made from output, so that more threads train nothing again."""
    return grid.dump(CONFIG.runtime)


def folder_of_model(wildcards, output):
    return str(Path(output.model).parent)


def folder_of_meta(wildcards, input):
    return str(Path(input.data).parent)


def folder_of_config(wildcards, input):
    return str(Path(input.config).parent)
