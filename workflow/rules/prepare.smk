rule prepare:
    input:
        files=f"{RESULTS}/data/{{data_set}}.files.json",
        code=data_set_code,
    output:
        meta=f"{RESULTS}/data/{{data_set}}/meta.json",
    log:
        f"{RESULTS}/logs/prepare/{{data_set}}.log",
    conda:
        ENVIRONMENT
    threads: 8
    resources:
        mem_mb=4000,
        runtime=720,
    params:
        reader=data_set_reader,
        settings=data_set_settings,
        out=lambda wildcards, output: str(Path(output.meta).parent),
    shell:
        "python -m partbench prepare --data-set {wildcards.data_set} --reader {params.reader}"
        " --settings {params.settings:q} --workers {threads} --out {params.out} 2> {log}"
