"""Everything that touches torch to load, hold and patch a model."""
