"""MLflow: the store, what a run logs, and finished runs read back."""
