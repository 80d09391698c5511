"""The names of everything that a run keeps in MLflow. Runs that are stored carry them: a name here
may be added, and never changes.
"""

# The adapter's folder, and the files in it: two of PEFT, the config of the run that made it, and
# what its base is.
ADAPTER = "adapter"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_RUN_CONFIG = "run.yaml"
BASE_IDENTITY = "base_model.json"

# The folder of the adapter that the run began with.
STARTED_FROM = "started_from"

# What was asked for, and where it ran.
COMPOSED_CONFIG = "config/composed.yaml"
OVERRIDES = "config/overrides.txt"
ENVIRONMENT = "environment.json"
PLAN = "plan.json"

# The cases.
AUDIT = "data/audit.json"
AUDIT_PAGE = "data/audit.html"

# What was measured.
ANSWERS = "answers/before_after.json"
PER_CASE = "evaluation/per_case.json"
RECORD = "evaluation/record.json"
REPORT = "report.html"

# A sweep: its folder of charts with their page, its trials, and the preset of the best one.
CHARTS = "charts"
SWEEP_PAGE = "sweep.html"
TRIALS = "trials.json"
INFEASIBLE_PROPOSALS = "infeasible_proposals.json"
BEST_PRESET = "best.yaml"
