"""Imported first by the process that warm trials are forked from: the training stack on a CPU, and
what a run needs beside it.

Nothing here may start a thread or touch a card: both do not survive a fork.
"""

import importlib
import signal

from medexp.models.backend import import_libraries

# Ctrl-C on the terminal is for the sweep alone, which tells its trials.
signal.signal(signal.SIGINT, signal.SIG_IGN)
import_libraries()
importlib.import_module("mlflow")
