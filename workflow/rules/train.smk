# One rule a method, so that `-R train_patchvae` and `set-resources: train_patchvae` mean it alone.
for method in METHODS:

    rule:
        name:
            f"train_{method}"
        input:
            data=f"{RESULTS}/data/{{train}}/meta.json",
            weights=weights_of(method),
        output:
            model=f"{RESULTS}/runs/{method}/{{variant}}/{{train}}/{{seed}}/model.pt",
        log:
            f"{RESULTS}/logs/train/{method}/{{variant}}/{{train}}/{{seed}}.log",
        priority: 1  # the longest jobs first, or the last of them would run alone
        conda:
            ENVIRONMENT
        threads: CONFIG.runtime.threads
        resources:
            **NODES,
            gpu=0 if "gres" in NODES else GPUS * CONFIG.runtime.devices,
            mem_mb=more(16000),
            runtime=1440,
        params:
            run=f"{method}/{{variant}}/{{train}}/{{seed}}",
            settings=train_settings(method),
            code=fingerprint.of_training(method),
            # Other arithmetic rounds otherwise, so it trains again.
            arithmetic=(CONFIG.runtime.precision, CONFIG.runtime.compile),
            runtime=runtime,
            data=folder_of_meta,
            out=folder_of_model,
        shell:
            "exec python -m partbench train --run {params.run:q} --settings {params.settings:q}"
            " --runtime {params.runtime:q} --code {params.code:q} --data {params.data:q}"
            " --out {params.out:q} 2> {log:q}"
