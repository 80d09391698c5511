"""What a run needs in memory and time, worked out before anything loads."""
