rule fetch:
    output:
        files=f"{RESULTS}/data/{{data_set}}.files.json",
    log:
        f"{RESULTS}/logs/fetch/{{data_set}}.log",
    priority: 100  # as what waits for it
    conda:
        ENVIRONMENT
    params:
        reader=data_set_reader,
        settings=data_set_settings,
        files=data_set_files,
    shell:
        "python -m partbench fetch --data-set {wildcards.data_set:q} --reader {params.reader:q}"
        " --settings {params.settings:q} --files={params.files:q} --out {output.files:q} 2> {log:q}"


rule fetch_weights:
    output:
        files=f"{RESULTS}/weights/{{weights}}.files.json",
    log:
        f"{RESULTS}/logs/fetch_weights/{{weights}}.log",
    priority: 100
    conda:
        ENVIRONMENT
    params:
        files=weights_files,
    shell:
        "python -m partbench fetch-weights --name {wildcards.weights:q} --files={params.files:q}"
        " --out {output.files:q} 2> {log:q}"
