"""Answers and losses on held-out cases."""
