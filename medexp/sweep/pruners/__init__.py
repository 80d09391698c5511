"""Pruners that Optuna does not have."""
