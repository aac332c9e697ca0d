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
        page=REPORT,
        tables=expand(
            f"{RESULTS}/{{table}}.{{format}}",
            table=["metrics", "summary", "comparisons"],
            format=["parquet", "csv"],
        ),
    log:
        f"{RESULTS}/logs/report.log",
    conda:
        ENVIRONMENT
    params:
        results=folder_of_config,
        code=fingerprint.of_report(),
    shell:
        "python -m partbench report --results {params.results:q} --out {output.page:q} 2> {log:q}"
