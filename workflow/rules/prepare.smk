rule prepare:
    input:
        files=f"{RESULTS}/data/{{data_set}}.files.json",
    output:
        meta=f"{RESULTS}/data/{{data_set}}/meta.json",
    log:
        f"{RESULTS}/logs/prepare/{{data_set}}.log",
    wildcard_constraints:
        data_set=names_of(
            sorted(set(CONFIG.data) - {*PREDICTED, *SCENES, *CLUSTERED, *FLOWS, *STREAMS})
        ),
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


if PREDICTED:

    rule foreground:
        input:
            model=model_of_foreground,
            data=data_of_foreground,
            found_in=images_of_foreground,
        output:
            meta=f"{RESULTS}/data/{{data_set}}/meta.json",
        log:
            f"{RESULTS}/logs/foreground/{{data_set}}.log",
        wildcard_constraints:
            data_set=names_of(PREDICTED),
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
            found_in=folder_of_images,
            code=fingerprint.of_foreground(),
            out=lambda wildcards, output: str(Path(output.meta).parent),
        shell:
            "exec python -m partbench foreground --data-set {wildcards.data_set:q}"
            " --model {input.model:q} --data {params.data:q} --found-in={params.found_in:q} --runtime {params.runtime:q} --code {params.code:q}"
            " --out {params.out:q} 2> {log:q}"


if SCENES:

    rule scenes:
        input:
            data=data_of_scenes,
            weights=weights_of_scenes,
        output:
            meta=f"{RESULTS}/data/{{data_set}}/meta.json",
        log:
            f"{RESULTS}/logs/scenes/{{data_set}}.log",
        wildcard_constraints:
            data_set=names_of(SCENES),
        priority: 100
        conda:
            ENVIRONMENT
        threads: CONFIG.runtime.threads
        resources:
            gpu=GPUS,
            mem_mb=more(16000),
            runtime=1440,
        params:
            runtime=runtime,
            data=folder_of_meta,
            settings=settings_of_scenes,
            code=code_of_scenes,
            out=lambda wildcards, output: str(Path(output.meta).parent),
        shell:
            "exec python -m partbench scenes --data-set {wildcards.data_set:q} --data {params.data:q}"
            " --settings {params.settings:q} --runtime {params.runtime:q} --code {params.code:q}"
            " --out {params.out:q} 2> {log:q}"


if CLUSTERED:

    rule clusters:
        input:
            model=model_of_clusters,
            data=data_of_clusters,
        output:
            meta=f"{RESULTS}/data/{{data_set}}/meta.json",
        log:
            f"{RESULTS}/logs/clusters/{{data_set}}.log",
        wildcard_constraints:
            data_set=names_of(CLUSTERED),
        conda:
            ENVIRONMENT
        threads: CONFIG.runtime.threads
        resources:
            gpu=GPUS,
            mem_mb=more(16000),
            runtime=480,
        params:
            runtime=runtime,
            data=folder_of_meta,
            settings=settings_of_clusters,
            code=code_of_clusters,
            out=lambda wildcards, output: str(Path(output.meta).parent),
        shell:
            "exec python -m partbench clusters --data-set {wildcards.data_set:q}"
            " --model {input.model:q} --data {params.data:q} --settings {params.settings:q}"
            " --runtime {params.runtime:q} --code {params.code:q} --out {params.out:q} 2> {log:q}"


if FLOWS:

    rule flow:
        input:
            data=data_of_flow,
            weights=weights_of_flow,
        output:
            meta=f"{RESULTS}/data/{{data_set}}/meta.json",
        log:
            f"{RESULTS}/logs/flow/{{data_set}}.log",
        wildcard_constraints:
            data_set=names_of(FLOWS),
        priority: 100
        conda:
            ENVIRONMENT
        threads: CONFIG.runtime.threads
        resources:
            gpu=GPUS,
            mem_mb=more(16000),
            runtime=1440,
        params:
            runtime=runtime,
            data=folder_of_meta,
            settings=settings_of_flow,
            code=code_of_flow,
            out=lambda wildcards, output: str(Path(output.meta).parent),
        shell:
            "exec python -m partbench flow --data-set {wildcards.data_set:q} --data {params.data:q}"
            " --settings {params.settings:q} --runtime {params.runtime:q} --code {params.code:q}"
            " --out {params.out:q} 2> {log:q}"


if STREAMS:

    rule second_stream:
        input:
            model=model_of_second_stream,
            data=data_of_first_stream,
            stream=data_of_second_stream,
        output:
            meta=f"{RESULTS}/data/{{data_set}}/meta.json",
        log:
            f"{RESULTS}/logs/second_stream/{{data_set}}.log",
        wildcard_constraints:
            data_set=names_of(STREAMS),
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
            stream=folder_of_stream,
            code=code_of_second_stream,
            out=lambda wildcards, output: str(Path(output.meta).parent),
        shell:
            "exec python -m partbench second-stream --data-set {wildcards.data_set:q}"
            " --model {input.model:q} --data {params.data:q} --stream {params.stream:q}"
            " --runtime {params.runtime:q} --code {params.code:q} --out {params.out:q} 2> {log:q}"
