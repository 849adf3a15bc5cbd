"""A complete method of one's own: LoRA on the query and value projections, through PEFT.

Run it with ``attngraph --plugin example_method.py ablation --gnn lora,gcn``.
"""

from dataclasses import dataclass

from peft import LoraConfig

from experiments.methods import PeftMethod, register


@dataclass(frozen=True, kw_only=True)
class LowRank(PeftMethod):
    """Low-rank updates of the attention on the language side; the image encoder stays as it is."""

    default_rate: float = 1e-3  # peak learning rate, on every task without a chosen one

    def settings(self, chosen, task, join=None):
        return {"r": 8, "lora_alpha": 16}

    def config(self, family, settings):
        side = "|".join(family.language_side())
        return LoraConfig(target_modules=rf"({side}).*\.(query|value|q_proj|v_proj)", **settings)


register(LowRank(name="lora", title="LoRA", group="Low-rank updates"))
