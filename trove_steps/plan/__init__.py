"""From a configuration to named artefacts: which files, which keys, which paths, which command lines.

The planner runs while the Snakefile is parsed. It reads files only to hash them (once; digests are
remembered) and to see how deep mining must search, and imports nothing heavy. It has three layers, each a
class on top of the one before: `Cells` (what is asked for), `Artefacts` (what it is called), `Plan` (what
snakemake makes, and with which commands). `parts` has what they speak of.

Beside the planner stand those who ask it: `stages` (what a run would compute), `explain` (trove-steps
why) and `estimate` (trove-steps plan).
"""

from trove_steps.plan.cells import round_up
from trove_steps.plan.parts import Cell, Encoding, Imported, Model
from trove_steps.plan.tasks import Plan

__all__ = ["Cell", "Encoding", "Imported", "Model", "Plan", "round_up"]
