"""Turn an original checkpoint into a folder that ``--model`` takes.

    attngraph convert blip model_base_capfilt_large.pth --out models/capfilt-l
    attngraph convert blip model_base_capfilt_large.pth --as vqa --side 480 --out models/capfilt-l-vqa
    attngraph convert blip model_base_vqa_capfilt_large.pth --out models/vqa --tokenizer vocab.txt
    attngraph convert mplug mplug_base.pth --side 384 --out models/mplug

A file that lacks a tensor, or has one that nobody knows, is refused. :mod:`experiments.models.convert` has
the names.
"""

from __future__ import annotations

import argparse

from attngraph.errors import UserError
from experiments.base.arguments import Between, path, word
from experiments.base.outputs import Outputs
from experiments.base.progress import note
from experiments.models.convert import (
    ARRANGEMENTS,
    BERT,
    KINDS,
    find_vocabulary,
    read_original,
    save_converted,
)
from experiments.models.images import LARGEST_SIDE
from experiments.models.weights import weights_digest

NAMES = ("*.safetensors", "*config.json", "tokenizer.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph convert``."""
    add = parser.add_argument
    add(
        "layout",
        choices=list(KINDS),
        metavar="KIND",
        help=f"Read the file as a checkpoint of these authors: {', '.join(KINDS)}.",
    )
    add("checkpoint", type=path, metavar="FILE", help="Read this file, such as model_base_capfilt_large.pth.")
    add(
        "--out",
        type=path,
        required=True,
        metavar="FOLDER",
        help="Write the model and its tokenizer into this folder.",
    )
    add(
        "--as",
        dest="arrangement",
        choices=list(ARRANGEMENTS),
        metavar="NAME",
        help="Make this of it: "
        + "; ".join(f"{name} ({about})" for name, about in ARRANGEMENTS.items())
        + ". Default: of BLIP vqa where the file is one for questions, else captioner; of mPLUG whole.",
    )
    add(
        "--side",
        type=Between(1, LARGEST_SIDE),
        metavar="PIXELS",
        help="Show the model pictures of this side, to which its positions are interpolated. Default: as the "
        "file has them.",
    )
    add(
        "--tokenizer",
        type=word,
        metavar="PLACE",
        help="Take the vocabulary from this file, folder or hub name. Default: what lies next to the "
        f"checkpoint, else {BERT}.",
    )
    add("--download", action="store_true", help="Fetch from the hub what is not on this machine.")


def run(args: argparse.Namespace) -> int:
    """Read, convert and write."""
    file = args.checkpoint
    if not file.is_file():
        raise UserError(f"{file}: no such file: give a checkpoint as its authors published it")
    settings = {name: getattr(args, name) for name in ("layout", "arrangement", "side", "tokenizer")}
    settings["weights"] = weights_digest(file)
    outputs = Outputs(args.out, "convert", settings, NAMES)
    outputs.check()
    vocabulary = find_vocabulary(args.tokenizer, file, args.download)
    original = read_original(file, vocabulary, args.layout, args.arrangement)
    family = original.family
    own = family.image_side
    print(f"{file}: {original.arrangement}, {ARRANGEMENTS[original.arrangement]}")
    print(f"{original.read} tensors in the file, {original.used} in the model")
    if args.side is not None and args.side != own:
        family.resize(args.side)
        print(f"positions interpolated: {own} -> {args.side} pixels")
    with outputs.alone(), outputs.writing() as part:
        save_converted(family, part)
    note(f"saved: {args.out}")
    return 0
