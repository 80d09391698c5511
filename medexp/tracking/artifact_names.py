"""The names of everything that a run keeps in MLflow. Runs that are stored carry them: a name here
may be added, and never changes.
"""

# The adapter's folder, and the files that PEFT writes into it.
ADAPTER = "adapter"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

# The folder of the adapter that the run began with.
STARTED_FROM = "started_from"

COMPOSED_CONFIG = "config/composed.yaml"
RECORD = "evaluation/record.json"
REPORT = "report.html"
