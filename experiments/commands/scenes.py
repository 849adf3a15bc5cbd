"""``attngraph scenes``: draws the Scenes data sets and writes them in the official file formats."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from experiments.base.arguments import Between, seed
from experiments.base.outputs import check_folder
from experiments.data.drawn import MOST, Sizes, write_scenes

UNITS = {"captions": "images with captions"}  # what a size counts, where its name does not say it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph scenes``."""
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="Write into this folder. It must be new or empty, or hold the same data.",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="Set the seed of the scenes and their texts."
    )
    for name, value in asdict(Sizes()).items():
        parser.add_argument(
            f"--{name}",
            type=Between(1, MOST),
            nargs=3,
            default=value,
            metavar=("TRAIN", "VAL", "TEST"),
            help=f"Draw so many {UNITS.get(name, name)} for training, validation and test.",
        )


def run(args: argparse.Namespace) -> int:
    """Writes the data sets and says where they are."""
    check_folder(args.out, "scenes")
    sizes = Sizes(tuple(args.questions), tuple(args.hypotheses), tuple(args.captions))
    write_scenes(args.out, args.seed, sizes)
    print(f"{args.out}: vqa_v2, snli_ve and karpathy, seed {args.seed}")
    return 0
