"""The command ``attngraph``."""

from __future__ import annotations

import argparse
import os
import sys

COMMANDS = {
    "ablation": ("train and score the GNN ablation table", "experiments.commands.ablation"),
    "pretrain": ("pre-train the mini-BLIP from scratch on drawn scenes", "experiments.commands.pretrain"),
    "search": (
        "choose learning rates, joins and scheme arguments on validation data",
        "experiments.commands.search",
    ),
    "scenes": (
        "draw the Scenes data sets and write them in the official file formats",
        "experiments.scenes.write",
    ),
    "heterophily": (
        "measure the heterophily of attention graphs per layer and head, beside what chance gives",
        "experiments.commands.heterophily",
    ),
    "tsne": ("draw the projected query and value spaces of attention layers", "experiments.commands.tsne"),
    "attention": (
        "draw where a model looks: attention, rollout and gradient-weighted relevance on the picture",
        "experiments.commands.attention",
    ),
    "bench": (
        "measure speed and memory against attention itself and against peers",
        "experiments.commands.bench",
    ),
    "doctor": (
        "print versions and devices, and look for what is missing or in the way",
        "experiments.commands.doctor",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run a command; bad input ends with one line and exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    parser = argparse.ArgumentParser(
        prog="attngraph",
        description="Attention layers as graphs, and GNN adapters on them.",
        epilog="attngraph COMMAND --help explains a command.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    asked = next((word for word in argv if word in COMMANDS), None)
    for name, (about, module) in COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        if (
            name == asked and name != "doctor"
        ):  # only the module that is needed is imported: --help stays quick
            _module(module).add_arguments(command)
    args = parser.parse_args(argv)
    if args.version:
        import attngraph

        print(f"attngraph {attngraph.__version__}")
        return 0
    if args.command is None:
        parser.print_help()
        return 0
    from attngraph.errors import UserError

    try:
        module = _module(COMMANDS[args.command][1])
        return module.run() if args.command == "doctor" else module.run(args)
    except UserError as error:
        print(f"attngraph: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"attngraph: {error}: check the path, the room on the disk and your rights", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


def _module(name: str):
    import importlib

    return importlib.import_module(name)


if __name__ == "__main__":
    sys.exit(main())
