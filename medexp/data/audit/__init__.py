"""Checks of cases before training: duplicates, contamination, reasoning, languages."""
