"""Replacements of library functions that spend less memory or time; each gives the same
gradients."""
