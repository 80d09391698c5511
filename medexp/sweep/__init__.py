"""A search over runs: which are tried, which cannot fit, where trials run, and the results."""
