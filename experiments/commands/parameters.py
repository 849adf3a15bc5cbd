"""Count the parameters that each method trains, per part of the model, and their fraction.

Nothing is trained. Adapters join the model by ``replace``, as in the paper, unless a row sets another join.
"""

from __future__ import annotations

from attngraph.errors import UserError
from attngraph.experiments.base.messages import check_known
from attngraph.experiments.commands.options import ParametersOptions
from attngraph.experiments.methods import method_named
from attngraph.experiments.methods.method import canonical, known_methods
from attngraph.experiments.methods.parameters import count_parameters
from attngraph.experiments.methods.settings import Settings, chosen_settings
from attngraph.experiments.models import load_family
from attngraph.experiments.models.blip import blip_base_without_weights

ROWS = ("full", "decoder", "prefix", "lora", "gcn", "appnp", "gcnii", "pgnn")
REDUCTION = 8  # the paper's: a width of 96 on 768
JOIN = "replace"  # the paper's
TASK = "vqa"  # any: what is counted depends on no task


def run(options: ParametersOptions) -> int:
    """Count and print."""
    names = [canonical(name) for name in options.methods or ROWS]
    check_known(names, known_methods(), "method")
    if options.base and (options.model is not None):
        raise UserError("--base does not use a checkpoint: remove --model")
    reduction = options.reduction or (REDUCTION if options.base else chosen_settings().reduction)
    lines: list[str] = []
    for name in names:
        family = blip_base_without_weights() if options.base else load_family(options.model, options.download)
        method = method_named(name)
        settings = method.settings(Settings(reduction=reduction), TASK)
        if "join" in settings:
            settings["join"] = method.join or JOIN
        count = count_parameters(method.apply(family, settings))
        lines += count.lines(method.title, None if lines else family.title)
    print("\n".join(lines))
    return 0
