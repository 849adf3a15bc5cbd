"""The options of the analysis commands that say what is looked at, and the source that they describe.

By default the mini-BLIP that ships with the package, on drawn scenes with their captions; or any
transformers model (``--model``), on images and texts of one's own (``--images``, ``--texts``) or on a data
set in its official files (``--data``, ``--task``). With ``--adapter`` the model has graph adapters in it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from attngraph.errors import UserError
from experiments.arguments import seed
from experiments.files import check_out
from experiments.inspect.adapted import put_in
from experiments.inspect.samples import own_samples, task_samples
from experiments.inspect.source import Source
from experiments.models import load_family
from experiments.models.family import ModelFamily
from experiments.models.mini_blip import weights_digest
from experiments.tasks import TASKS
from experiments.tasks.task import SPLITS
from experiments.training.device import check_device

NOT_SETTINGS = ("command", "version", "quiet", "out", "download", "batch", "strict", "device")


def add_source_arguments(
    parser: argparse.ArgumentParser, out: Path = Path("runs"), layers: str = "all", heads: str = "all"
) -> None:
    """The options that say what is looked at, and where results go.

    Args:
        parser: gets the options.
        out: the default folder.
        layers, heads: which ones a command takes by default, in words.
    """
    add = parser.add_argument
    add(
        "--model",
        metavar="NAME",
        help="Look at this transformers model: a folder or a hub name. Default: mini-BLIP, which comes with "
        "the package.",
    )
    add("--download", action="store_true", help="Fetch from the hub what is not on this machine.")
    add(
        "--adapter",
        type=Path,
        metavar="PATH",
        help="Put these graph adapters into the model: a cell's folder of `attngraph ablation`, or a folder "
        "that PEFT saved.",
    )
    add("--images", nargs="+", type=Path, metavar="PATH", help="Look at these image files or folders.")
    add(
        "--texts",
        type=Path,
        metavar="FILE",
        help="Read a text per line from this file, one for each image or one for all. Without it, BLIP "
        "describes the images itself, without its adapters.",
    )
    add(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="Take data in official files, as `attngraph scenes` lays them out. Default: scenes that are "
        "drawn for the run.",
    )
    add(
        "--task",
        choices=list(TASKS),
        default="caption",
        help="Take prompts and answers of this task.",
    )
    add("--split", choices=SPLITS, default="validation", help="Take this split of the data.")
    add("--examples", type=int, default=64, help="Look at this many examples at most.")
    add("--batch", type=int, default=16, help="Put this many examples into a forward pass.")
    add(
        "--layers",
        nargs="+",
        metavar="NAME",
        help="Look at these attention layers: names or patterns such as '*crossattention*'. Default: "
        f"{layers}.",
    )
    add("--heads", nargs="+", type=int, metavar="HEAD", help=f"Look at these heads. Default: {heads}.")
    add("--strict", action="store_true", help="Stop at an unreadable image instead of leaving it out.")
    add("--out", type=Path, default=out, help="Write the results into this folder.")
    add("--device", default="cpu", help="Run the model on this device: cpu, cuda, cuda:1 or mps.")
    add("--seed", type=seed, default=0, help="Set the seed of scenes, choices and random numbers.")


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What decides a command's results, for :class:`experiments.outputs.Outputs`: all options but those that
    only say where and how it runs, and digests of the weights that are looked at.
    """
    settings = {name: value for name, value in vars(args).items() if name not in NOT_SETTINGS}
    settings = {"weights": weights_digest(args.model), **settings}
    if args.adapter is not None:
        settings["adapter_weights"] = weights_digest(args.adapter)
    return json.loads(json.dumps(settings, default=str))


def open_source(args: argparse.Namespace, trained: bool = True) -> Source:
    """The source that the options of :func:`add_source_arguments` describe.

    Args:
        args: the parsed options.
        trained: False for the adapters of ``--adapter`` as they were before training (the model then
            computes what it does without them, unless the join is ``replace``).

    Raises:
        UserError: something is missing, damaged or out of range.
    """
    _check(args)
    family = load_family(args.model, args.download)
    samples = _samples(args, family)
    family.check(samples)
    adapters = {} if args.adapter is None else put_in(family, args.adapter, trained, args.seed)
    return Source(
        family, samples, args.batch, args.layers, args.heads, args.device, args.strict, adapters=adapters
    )


def _check(args: argparse.Namespace) -> None:
    for name in ("examples", "batch"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(args, name)}")
    if args.texts and args.data:
        raise UserError("--texts and --data exclude one another: the data have their own texts")
    if args.images and args.data:
        raise UserError("--images and --data exclude one another: the data have their own images")
    check_device(args.device)
    check_out(args.out)


def _samples(args: argparse.Namespace, family: ModelFamily):
    name = family.title if args.model is None else type(family.model).__name__
    if args.images and not family.sees:
        raise UserError(f"{name} looks at no images: leave out --images")
    if args.texts and not family.reads:
        raise UserError(f"{name} reads no texts: leave out --texts")
    if args.images or args.texts:
        return own_samples(args.images, args.texts)[: args.examples]
    return task_samples(args.task, family.name, args.split, args.data, args.examples, args.seed)
