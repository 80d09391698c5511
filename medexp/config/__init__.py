"""The shape of a run: schemas, rules between groups, and how a command line becomes one."""
