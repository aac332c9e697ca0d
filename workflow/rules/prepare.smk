rule prepare:
    input:
        files=f"{RESULTS}/data/{{data_set}}.files.json",
    output:
        meta=f"{RESULTS}/data/{{data_set}}/meta.json",
    log:
        f"{RESULTS}/logs/prepare/{{data_set}}.log",
    wildcard_constraints:
        data_set=names_of(predicted=False),
    priority: 100  # before trainings: it takes every core, and is weighed against as many of them
    conda:
        ENVIRONMENT
    threads: 8
    resources:
        mem_mb=more(4000),
        runtime=720,
    params:
        reader=data_set_reader,
        settings=data_set_settings,
        code=data_set_code,
        out=lambda wildcards, output: str(Path(output.meta).parent),
    shell:
        "exec python -m partbench prepare --data-set {wildcards.data_set:q} --reader {params.reader:q}"
        " --settings {params.settings:q} --workers {threads:q} --code {params.code:q}"
        " --out {params.out:q} 2> {log:q}"


if any(PREDICTED.values()):

    rule foreground:
        input:
            model=model_of_foreground,
            data=data_of_foreground,
        output:
            meta=f"{RESULTS}/data/{{data_set}}/meta.json",
        log:
            f"{RESULTS}/logs/foreground/{{data_set}}.log",
        wildcard_constraints:
            data_set=names_of(predicted=True),
        conda:
            ENVIRONMENT
        threads: CONFIG.runtime.threads
        resources:
            gpu=GPUS,
            mem_mb=more(8000),
            runtime=240,
        params:
            runtime=runtime,
            data=folder_of_meta,
            code=fingerprint.of_foreground(),
            out=lambda wildcards, output: str(Path(output.meta).parent),
        shell:
            "exec python -m partbench foreground --data-set {wildcards.data_set:q}"
            " --model {input.model:q} --data {params.data:q} --runtime {params.runtime:q} --code {params.code:q}"
            " --out {params.out:q} 2> {log:q}"
