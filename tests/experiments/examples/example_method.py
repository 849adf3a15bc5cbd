"""A complete custom method: (IA)^3 on the key and value projections, through PEFT.

Run it with ``attngraph --plugin example_method.py ablation --rows ia3,gcn``.
"""

from dataclasses import dataclass

from peft import IA3Config

from attngraph.experiments.methods import PeftMethod, register


@dataclass(frozen=True, kw_only=True)
class Rescaling(PeftMethod):
    """Learned factors of keys and values on the language side; the image encoder is unchanged."""

    default_rate: float = 1e-3  # peak learning rate, on every task without a chosen one

    def settings(self, chosen, task):
        return {}

    def config(self, family, settings):
        side = "|".join(family.language_side())
        targets = rf"({side}).*\.(key|value|k_proj|v_proj)"
        return IA3Config(target_modules=targets, feedforward_modules=[], **settings)


register(Rescaling(name="ia3", title="(IA)³", group="Rescaling"))
