"""medexp: find the best fine-tuning of a language model that fits a small graphics card, and prove
what it changed.
"""

from medexp.system import environment

environment.prepare()  # before anything else of medexp, or of what it uses, is imported
