"""Imported first by the process that warm trials are forked from: the training stack on a CPU, and
what a run imports as it goes.

Nothing here may start a thread or touch a card: both do not survive a fork.
"""

import importlib
import signal

from medexp.data.audit.language import detect_language
from medexp.models.backend import capture_library_output, import_libraries
from medexp.system.imports import gc_paused_for_import

# MLflow's store, the charts of the report, and the study that a trial reports to.
_LATER = ("mlflow.store.tracking.sqlalchemy_store", "matplotlib.figure", "optuna")

# Ctrl-C on the terminal is for the sweep alone, which tells its trials.
signal.signal(signal.SIGINT, signal.SIG_IGN)
import_libraries()
with capture_library_output(), gc_paused_for_import():
    for name in _LATER:
        importlib.import_module(name)
    # Reads its model, half a second, the first time.
    detect_language("a model of letters")
