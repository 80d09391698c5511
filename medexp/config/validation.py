"""The rules between the groups of a configuration.

Each yields one sentence a problem: what was given, what is allowed, and what to set. `resolve`
collects them all. Arithmetic and text only: what the machine has is handed in.
"""

from collections.abc import Callable, Iterable, Iterator

from medexp.config import case_rules, hardware_rules, recipe_rules
from medexp.config.schema import RunConfig

RULES: Iterable[Callable[[RunConfig], Iterator[str]]] = (
    recipe_rules.check_steps,
    recipe_rules.check_schedule,
    recipe_rules.check_adapter,
    hardware_rules.check_engine,
    hardware_rules.check_cards,
    hardware_rules.check_levers,
    hardware_rules.check_measured_steps,
    hardware_rules.check_optimizer,
    recipe_rules.check_target_modules,
    recipe_rules.check_family,
    case_rules.check_prompt,
    case_rules.check_cases,
    case_rules.check_arms,
    case_rules.check_benchmarks,
    case_rules.check_judge,
    case_rules.check_weights,
)
