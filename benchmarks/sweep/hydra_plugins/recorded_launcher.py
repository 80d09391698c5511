"""A launcher for scale.py: a trial ends at once with the loss that the recording has for it.

Hydra imports it in every command that has this folder in PYTHONPATH.
"""

import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

RECORDING = "MEDEXP_RECORDING"
SECONDS = "MEDEXP_TRIAL_SECONDS"


class RecordedLauncher(Launcher):
    """Waits about as many seconds as SECONDS says, then leaves the outcome of a trial that is done.

    Everything else of a sweep is as it always is.
    """

    def __init__(self, **_: Any):
        self.surrogate: Any = None

    def setup(self, **_: Any) -> None:
        """Called by Hydra before `launch`."""
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from surrogate import Surrogate

        self.surrogate = Surrogate(os.environ[RECORDING])

    def launch(
        self,
        job_overrides: Sequence[Sequence[str]],
        initial_job_idx: int,  # noqa: ARG002
    ) -> Sequence[JobReturn]:
        """Leave the outcome of the one job that there is."""
        from medexp.sweep.study.trial_files import Ending, TrialOutcome

        given = dict(word.lstrip("+").split("=", 1) for word in job_overrides[0])
        seconds = float(os.environ[SECONDS]) * random.uniform(0.5, 1.5)
        time.sleep(seconds)
        loss = self.surrogate.loss(
            int(given["lora.r"]),
            float(given["training.learning_rate"]),
            int(given["training.max_seq_tokens"]),
        )
        folder = Path(given["hydra.sweep.dir"].strip("'")) / given["hydra.sweep.subdir"]
        TrialOutcome(Ending.done, "", {"result/loss_after": loss}, elapsed_s=seconds).write(folder)
        return []
