"""``attngraph scenes``: draws the Scenes data sets and writes them in the official file formats."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from experiments.scenes.write import Sizes, write_scenes

_UNITS = {"captions": "images with captions"}  # what a size counts, where its name does not say it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph scenes``."""
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write; it must be new, or hold the same data"
    )
    parser.add_argument("--seed", type=int, default=0, help="of scenes and texts (default: 0)")
    for name, value in asdict(Sizes()).items():
        parser.add_argument(
            f"--{name}",
            type=int,
            nargs=3,
            default=value,
            metavar=("TRAIN", "VAL", "TEST"),
            help=f"number of {_UNITS.get(name, name)} (default: {' '.join(map(str, value))})",
        )


def run(args: argparse.Namespace) -> int:
    """Writes the data sets and says where they are."""
    sizes = Sizes(tuple(args.questions), tuple(args.hypotheses), tuple(args.captions))
    write_scenes(args.out, args.seed, sizes)
    print(f"{args.out}: vqa_v2, snli_ve and karpathy, seed {args.seed}")
    return 0
