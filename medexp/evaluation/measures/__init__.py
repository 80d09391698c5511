"""Scoring rules over the text of an answer."""
