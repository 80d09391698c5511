"""What every process of medexp has in its environment before a library reads it.

`import medexp` calls `prepare` first of all, so that commands, Hydra's plugins, trials of a sweep
and notebooks have it alike; child processes inherit it.
"""

import os
from collections.abc import MutableMapping

# Usage reports are off whatever the user's environment says: cases are patients', and nobody who
# set one of these for another project meant this one. Sources were read in the installed versions;
# those of Unsloth, vLLM, Ray and W&B, which may be there too, are named as they are known to be.
NO_USAGE_REPORTS = {
    # huggingface_hub/constants.py takes 1, on, yes or true; mlflow/telemetry/utils.py takes true
    # alone.
    "DO_NOT_TRACK": "true",
    # huggingface_hub/constants.py: send_telemetry, called by Gradio and by TRL whenever a trainer
    # is made (trl/trainer/base_trainer.py), and the user agent that transformers/utils/hub.py
    # makes.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # datasets/load.py and evaluate/loading.py ask the Hub for a file so as to be counted.
    "HF_UPDATE_DOWNLOAD_COUNTS": "FALSE",
    # mlflow/telemetry: the client, the server, and what the server's page sends through it.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # mlflow/telemetry/utils.py: true would send in spite of all the others.
    "_MLFLOW_TESTING_TELEMETRY": "false",
    # gradio/analytics.py, and its look for a newer version; anything but True is off.
    "GRADIO_ANALYTICS_ENABLED": "False",
    # unsloth/models/_utils.py: downloads that count the machine and its memory at every load.
    "UNSLOTH_DISABLE_STATISTICS": "1",
    # ray/_private/usage: a sweep's Ray launcher.
    "RAY_USAGE_STATS_ENABLED": "0",
    # vllm/usage/usage_lib.py; it takes 1 alone, of DO_NOT_TRACK, too.
    "VLLM_NO_USAGE_STATS": "1",
    # wandb/analytics/sentry.py; TRL and Accelerate import wandb where it is installed.
    "WANDB_ERROR_REPORTING": "false",
}

# Each says how long a thread spins for work before it sleeps: in libgomp (torch on Linux), or in
# LLVM's and Intel's OpenMP (elsewhere).
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


def prepare(variables: MutableMapping[str, str] = os.environ) -> None:
    """Switch off every usage report, and let idle threads sleep unless `variables` says otherwise.

    Libraries read both when they are loaded: call it before torch or mlflow is imported.
    """
    variables.update(NO_USAGE_REPORTS)
    if not any(name in variables for name in WAITING):
        # A thread that spins takes the core of the one that it waits for (benchmarks/generation).
        variables["OMP_WAIT_POLICY"] = "PASSIVE"
