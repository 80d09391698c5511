"""What a sweep shows: its live table, charts and results."""
