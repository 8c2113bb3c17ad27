"""How published tools and papers count one and the same run, and which rule of theirs makes the difference to ours."""

from rmp_deploy.analysis.conventions.apply import ConventionLedger, ConventionTerm, Difference, apply
from rmp_deploy.analysis.conventions.presets import CONVENTIONS
from rmp_deploy.analysis.conventions.switches import REASONS, Convention, Rule, Sram, Switches

__all__ = [
    "CONVENTIONS",
    "REASONS",
    "Convention",
    "ConventionLedger",
    "ConventionTerm",
    "Difference",
    "Rule",
    "Sram",
    "Switches",
    "apply",
]
