rule configuration:
    output:
        f"{RESULTS}/config.json",
    log:
        f"{RESULTS}/logs/configuration.log",
    priority: 200  # first, since the report of a failed run reads it
    conda:
        ENVIRONMENT
    params:
        json=dump(CONFIG),
    shell:
        "python -m partbench configuration --json {params.json:q} --out {output:q} 2> {log:q}"


rule report:
    input:
        config=f"{RESULTS}/config.json",
        cells=[f"{RESULTS}/cells/{cell}.json" for cell in CELLS],
    output:
        page=report(REPORT, caption="../captions/answers.rst", category="Answers"),
        metrics=report(
            f"{RESULTS}/metrics.csv",
            caption="../captions/metrics.rst",
            category="Tables",
        ),
        summary=report(
            f"{RESULTS}/summary.csv",
            caption="../captions/summary.rst",
            category="Tables",
        ),
        comparisons=report(
            f"{RESULTS}/comparisons.csv",
            caption="../captions/comparisons.rst",
            category="Tables",
        ),
        tables=expand(f"{RESULTS}/{{table}}.parquet", table=["metrics", "summary", "comparisons"]),
    log:
        f"{RESULTS}/logs/report.log",
    conda:
        ENVIRONMENT
    params:
        results=folder_of_config,
        code=fingerprint.of_report(),
    shell:
        "python -m partbench report --results {params.results:q} --out {output.page:q} 2> {log:q}"
