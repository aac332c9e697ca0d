# The whole benchmark, from archives to report/index.html.
#
#   archives -> files -> prepared data -> model.pt -> outputs -> cell.json -> tables and page
#          fetch    prepare         train_*    extract      probe_*        report

from snakemake.utils import min_version

min_version("9.0")


report: "workflow/captions/workflow.rst"


if "name" not in config:

    configfile: f"{workflow.basedir}/config/paper.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/fetch.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/extract.smk"
include: "workflow/rules/probe.smk"
include: "workflow/rules/report.smk"


wildcard_constraints:
    data_set="[^/]+",
    variant="[^/]+",
    train="[^/]+",
    seed=r"\d+",
    run=r"[^/]+/[^/]+/[^/]+/\d+",
    eval="[^/]+",
    probe="[^/]+",


localrules:
    all,
    configuration,
    fetch,
    fetch_weights,
    report,


rule all:
    default_target: True
    input:
        REPORT,
        # Not only the report, which stands after a failure too: what is missing is made.
        [f"{RESULTS}/runs/{run}/model.pt" for run in RUNS],
        [f"{RESULTS}/cells/{cell}.json" for cell in CELLS],


# Jobs on this machine start as forks of one process; those on a cluster's nodes by themselves.
FORKSERVER = Server()


onstart:
    # The tables and the page say by this which job failed, and how its log ended.
    jobs.record(Path(RESULTS), workflow.dag.jobs, ABSENT)
    if workflow.local_exec:
        FORKSERVER.start(threads=min(CONFIG.runtime.threads, workflow.cores))


onsuccess:
    FORKSERVER.stop()
    # Where only some files were asked for, the configuration is not among them.
    if Path(RESULTS, "config.json").exists():
        shell("python -m partbench outcome {RESULTS:q}")


onerror:
    FORKSERVER.stop()
    # What has been finished is shown, with the logs of what failed.
    shell(
        "python -m partbench report --results {RESULTS:q} --out {REPORT:q} --ended {log:q} || true"
    )
    shell("python -m partbench outcome {RESULTS:q} || true")
