"""A search over runs: what is tried, what cannot fit, where each trial runs, and what came of it."""
