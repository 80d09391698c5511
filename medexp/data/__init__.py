"""Cases: what a record is, where it comes from, how it becomes text and tokens."""
