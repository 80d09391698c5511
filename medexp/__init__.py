"""medexp: find the best fine-tuning of a language model that fits a small graphics card, and prove what it changed."""
