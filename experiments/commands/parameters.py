"""Count what methods train: how many parameters, where they sit, and their share of the model.

    attngraph parameters gcn,pgnn --base
    attngraph parameters --model models/capfilt-l

Nothing is trained. Adapters join the model by ``replace``, as in the paper, unless ``--join`` names another
way or a row has one of its own. Shares are of the model without what a method adds.
"""

from __future__ import annotations

import argparse

from adapters.joins import JOINS
from attngraph.errors import UserError
from experiments.base.arguments import Between, add_model_arguments
from experiments.base.known import check_known
from experiments.methods import METHODS, method_named
from experiments.methods.method import canonical
from experiments.methods.parameters import ParameterCount, count_parameters
from experiments.methods.settings import Settings, chosen_settings
from experiments.models import load_family
from experiments.models.blip import blip_base_without_weights
from experiments.tables.make import names_in

ROWS = ("full", "decoder", "prefix", "lora", "gcn", "appnp", "gcnii", "pgnn")
REDUCTION = 8  # the paper's: a width of 96 on 768
JOIN = "replace"  # the paper's
TASK = "vqa"  # any: what is counted depends on no task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph parameters``."""
    add = parser.add_argument
    add(
        "methods",
        nargs="?",
        metavar="NAMES",
        help=f"Take these methods, separated by commas. Default: {','.join(ROWS)}.",
    )
    add_model_arguments(parser, "Put them into this transformers model")
    add("--base", action="store_true", help="Take BLIP-base at full size, without weights.")
    add(
        "--join",
        choices=list(JOINS),
        metavar="NAME",
        help=f"Join adapters to the model in this way: {', '.join(JOINS)}. Rows with a join in their name "
        f"keep it. Default: {JOIN}, the paper's.",
    )
    add(
        "--reduction",
        type=Between(1, 100_000),  # as settings have it
        metavar="FACTOR",
        help="Set the width of the model over that of adapters' bottlenecks. Default: as chosen on "
        f"validation data; with --base {REDUCTION}, the paper's.",
    )


def run(args: argparse.Namespace) -> int:
    """Count and print."""
    names = names_in(args.methods)
    names = list(ROWS) if names is None else [canonical(name) for name in names]
    check_known(names, list(METHODS), "method")
    if args.base and (args.model is not None or args.download):
        raise UserError("--base takes no checkpoint: leave --model and --download out")
    reduction = args.reduction or (REDUCTION if args.base else chosen_settings().reduction)
    lines: list[str] = []
    for name in names:
        family = blip_base_without_weights() if args.base else load_family(args.model, args.download)
        method = method_named(name)
        join = args.join or getattr(method, "join", None) or JOIN
        settings = method.settings(Settings(reduction=reduction), TASK, join)
        count = count_parameters(method.apply(family, settings))
        lines += [] if lines else [*_heading(family.title, count)]
        lines += _lines(method.title, count)
    print("\n".join(lines))
    return 0


def _heading(title: str, count: ParameterCount) -> list[str]:
    return [
        f"{title}: {count.model:,} parameters, {count.language_side:,} of them on the language side",
        "",
        f"{'method, and where':<64} {'trained':>18} {'of the model':>13} {'of that side':>13}",
    ]


def _lines(title: str, count: ParameterCount) -> list[str]:
    shares = "".join(f" {100 * share:>11.2f} %" for share in count.shares.values())
    lines = [f"{title:<64} {count.trained:>18,}{shares}"]
    for part in count.parts:
        each, left = divmod(part.parameters, part.places)
        number = f"{part.places} × {each:,}" if part.places > 1 and not left else f"{part.parameters:,}"
        lines.append(f"  {part.name:<62} {number:>18}")
    return lines
