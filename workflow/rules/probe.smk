# One rule a probe; a probe reads a run's outputs, or trains on top of the model itself.
for probe in PROBES:
    on_model = PROBE_CLASSES[probe].reads == "model"

    rule:
        name:
            f"probe_{probe}"
        input:
            source=(
                f"{RESULTS}/runs/{{run}}/model.pt"
                if on_model
                else f"{RESULTS}/outputs/{{run}}/{{eval}}/{probe}"
            ),
            data=f"{RESULTS}/data/{{eval}}/meta.json",
            weights=weights_of_probe(probe),
        output:
            cell=f"{RESULTS}/cells/{{run}}/{{eval}}/{probe}.json",
            samples=f"{RESULTS}/cells/{{run}}/{{eval}}/{probe}.parquet",
        log:
            f"{RESULTS}/logs/probe/{{run}}/{{eval}}/{probe}.log",
        conda:
            ENVIRONMENT
        threads: CONFIG.runtime.threads
        resources:
            gpu=GPUS if on_model else 0,
            mem_mb=more(8000),
            runtime=1440 if on_model else 120,
        params:
            probe=probe,
            settings=probe_settings(probe),
            code=fingerprint.of_probe(PROBE_CLASSES[probe]),
            runtime=runtime,
            data=folder_of_meta,
        shell:
            "exec python -m partbench probe {params.probe:q} --run {wildcards.run:q}"
            " --source {input.source:q} --data {params.data:q} --settings {params.settings:q}"
            " --runtime {params.runtime:q} --code {params.code:q} --out {output.cell:q} 2> {log:q}"
