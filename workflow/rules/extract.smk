# Each probe has its outputs to itself: they are temporary, so that a probe that is added would
# else make them again for all, and be measured with all.
rule extract:
    input:
        model=f"{RESULTS}/runs/{{run}}/model.pt",
        data=f"{RESULTS}/data/{{eval}}/meta.json",
    output:
        outputs=temp(directory(f"{RESULTS}/outputs/{{run}}/{{eval}}/{{probe}}")),
        pictures=f"{RESULTS}/cells/{{run}}/{{eval}}/{{probe}}.pictures.npz",
    log:
        f"{RESULTS}/logs/extract/{{run}}/{{eval}}/{{probe}}.log",
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
        needs=needs_of_probe,
        code=extraction_code,
    shell:
        "exec python -m partbench extract --model {input.model:q} --data {params.data:q}"
        " --needs {params.needs:q}"
        " --outputs {output.outputs:q} --pictures {output.pictures:q}"
        " --runtime {params.runtime:q} 2> {log:q}"
