"""The options of the analysis commands that say what is looked at, and the source that they describe.

By default the mini-BLIP that ships with the package, on drawn scenes with their captions; or any
transformers model (``--model``), on images and texts of one's own (``--images``, ``--texts``) or on a data
set in its official files (``--data``, ``--task``). With ``--adapter`` the model has graph adapters in it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from attngraph.errors import UserError
from experiments.files import check_out
from experiments.inspect.adapted import put_in
from experiments.inspect.samples import own_samples, task_samples
from experiments.inspect.source import Source
from experiments.models import load_family
from experiments.models.family import ModelFamily
from experiments.tasks import TASKS
from experiments.tasks.task import SPLITS
from experiments.training.device import check_device


def add_source_arguments(parser: argparse.ArgumentParser, out: Path = Path("runs")) -> None:
    """The options that say what is looked at, and where results go."""
    add = parser.add_argument
    add("--model", metavar="NAME", help="folder or hub name of a transformers model (default: mini-BLIP)")
    add("--download", action="store_true", help="fetch from the hub what is not on this machine")
    add(
        "--adapter",
        type=Path,
        metavar="PATH",
        help="graph adapters to put in: a cell's folder of `attngraph ablation`, or a folder that PEFT saved",
    )
    add("--images", nargs="+", type=Path, metavar="PATH", help="image files, or folders of them")
    add(
        "--texts",
        type=Path,
        metavar="FILE",
        help="a text per line, one for each image, or one for all; without it BLIP describes the images, "
        "without its adapters",
    )
    add(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="data in official files, as `attngraph scenes` lays them out (default: scenes drawn for the "
        "run)",
    )
    add(
        "--task",
        choices=list(TASKS),
        default="caption",
        help="which texts of the data: prompt and answer of a task (default: %(default)s)",
    )
    add("--split", choices=SPLITS, default="validation", help="of the data (default: %(default)s)")
    add("--examples", type=int, default=64, help="at most so many (default: %(default)s)")
    add("--batch", type=int, default=16, help="examples in a forward pass (default: %(default)s)")
    add(
        "--layers",
        nargs="+",
        metavar="NAME",
        help="names or patterns of attention layers, such as '*crossattention*' (default: all)",
    )
    add("--heads", nargs="+", type=int, metavar="HEAD", help="which heads (default: all)")
    add("--strict", action="store_true", help="stop at an unreadable image instead of leaving it out")
    add("--out", type=Path, default=out, help="folder for the results (default: %(default)s)")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: %(default)s)")
    add("--seed", type=int, default=0, help="of scenes, choices and random numbers (default: %(default)s)")


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
    if args.seed < 0:
        raise UserError(f"--seed must be at least 0, got {args.seed}")
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
