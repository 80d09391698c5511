"""The Optuna study of a sweep and what is kept of its trials."""
