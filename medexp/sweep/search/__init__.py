"""What a sweep searches: its options, search space and proposals."""
