"""How a command starts and ends: composing its config, running it, its exit code."""
