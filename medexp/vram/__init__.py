"""GPU memory: keeping a process under its ceiling."""
