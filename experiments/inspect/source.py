"""What the analysis commands look at: a model, and images and texts to run it on.

By default the mini-BLIP that ships with the package, on drawn scenes with their captions; or any transformers model
(``--model``), on images and texts of one's own (``--images``, ``--texts``) or on a data set in its official files
(``--data``, ``--task``). With ``--adapter`` the model has graph adapters in it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from adapters.adapter import GraphAdapter
from attngraph import AttentionGraph, capture
from attngraph.errors import UserError
from experiments.files import check_out
from experiments.inspect.adapted import put_in
from experiments.inspect.encoders import Encoded, Encoder, Item, load_with_encoder
from experiments.inspect.stacking import unpacked
from experiments.inspect.words import Text
from experiments.scenes.scene import HUGE_SHAPES, Scene
from experiments.scenes.write import Sizes, write_scenes
from experiments.tasks import TASKS
from experiments.training.device import check_device

IMAGE_FILES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
PATCH_NAMES = ("background", *HUGE_SHAPES)


def add_source_arguments(parser: argparse.ArgumentParser, out: Path = Path("runs")) -> None:
    """The options that say what is looked at, and where results go."""
    parser.add_argument(
        "--model", metavar="NAME", help="folder or hub name of a transformers model (default: mini-BLIP)"
    )
    parser.add_argument(
        "--download", action="store_true", help="fetch from the hub what is not on this machine"
    )
    parser.add_argument(
        "--adapter",
        type=Path,
        metavar="PATH",
        help="graph adapters to put in: a cell's folder of `attngraph ablation`, its adapter.safetensors, or "
        "a folder that PEFT saved",
    )
    parser.add_argument(
        "--images", nargs="+", type=Path, metavar="PATH", help="image files, or folders of them"
    )
    parser.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help="a text per line, one for each image, or one for all; without it BLIP describes the images, "
        "without its adapters",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="data in official files, as `attngraph scenes` lays them out (default: scenes drawn for the run)",
    )
    parser.add_argument(
        "--task",
        choices=list(TASKS),
        default="caption",
        help="which texts of the data: prompt and answer of a task (default: %(default)s)",
    )
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="validation",
        help="of the data (default: %(default)s)",
    )
    parser.add_argument("--examples", type=int, default=64, help="at most so many (default: %(default)s)")
    parser.add_argument(
        "--batch", type=int, default=16, help="examples in a forward pass (default: %(default)s)"
    )
    parser.add_argument(
        "--layers",
        nargs="+",
        metavar="NAME",
        help="names or patterns of attention layers, such as '*crossattention*' (default: all)",
    )
    parser.add_argument("--heads", nargs="+", type=int, metavar="HEAD", help="which heads (default: all)")
    parser.add_argument(
        "--strict", action="store_true", help="stop at an unreadable image instead of leaving it out"
    )
    parser.add_argument("--out", type=Path, default=out, help="folder for the results (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of scenes, choices and random numbers (default: %(default)s)"
    )


@dataclass(frozen=True, kw_only=True)
class Batch(Encoded):
    """Examples as the model gets them.

    Args:
        names: the examples' names.
        scenes: what is drawn, where that is known.
    """

    names: list[str]
    scenes: list[Scene] | None = None

    @property
    def written(self) -> Text | None:
        """The text that the model writes: the decoder's own where there is one."""
        return self.decoder or self.text


class Source:
    """A model and what it is run on.

    Attributes:
        model, title: the model, in evaluation mode, and its name for titles.
        skipped: images that could not be read, so far.
        layers, heads: those chosen; None for all.
        adapters: ``{layer: adapter}`` of an adapted model.
    """

    def __init__(
        self,
        model: nn.Module,
        encoder: Encoder,
        items: list[Item],
        title: str,
        batch: int = 16,
        layers: list[str] | None = None,
        heads: list[int] | None = None,
        device: str = "cpu",
        strict: bool = False,
        adapters: dict[str, GraphAdapter] | None = None,
    ):
        self.model, self.encoder, self.items, self.title = model.to(device).eval(), encoder, items, title
        self.batch, self.layers, self.heads, self.device, self.strict = batch, layers, heads, device, strict
        self.adapters = adapters or {}
        self.skipped: list[str] = []

    def __len__(self) -> int:
        """How many examples, unreadable ones included."""
        return len(self.items)

    def batches(self) -> Iterator[Batch]:
        """The examples in order.

        Raises:
            UserError: an image cannot be read and ``strict`` is on, or none can.
        """
        self.skipped, some = [], False
        for start in range(0, len(self.items), self.batch):
            items = self._readable(self.items[start : start + self.batch])
            if items:
                some = True
                yield self._batch(items)
        if not some:
            raise UserError(
                f"none of the {len(self.items)} images can be read, {self.skipped[0]} first: check the files"
            )

    def graphs(self) -> Iterator[tuple[Batch, dict[str, AttentionGraph]]]:
        """Each batch with its attention graphs, ``{layer: graph}``."""
        for batch in self.batches():
            with self.running():
                graphs = capture(self.model, batch.inputs, self.layers, self.heads)
            yield batch, unpacked(graphs, batch.inputs)

    @contextmanager
    def running(self) -> Iterator[None]:
        """What the model or its processor complains of while it runs, in one line.

        Raises:
            UserError: in place of any error of theirs.
        """
        try:
            yield
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            raise UserError(
                f"{self.title} cannot be run on these inputs ({type(error).__name__}: {reason}): check that images "
                "and texts are what it reads, or make --batch smaller if memory was short"
            ) from error

    def reweighted(self, name: str, graph: AttentionGraph) -> AttentionGraph | None:
        """The graph with the weights that the layer's adapter uses in place of M; None where there is no adapter.

        The adapter has one p and one μ for all heads, so heads may have been left out.
        """
        adapter = self.adapters.get(name)
        if adapter is None:
            return None
        with torch.no_grad():
            kept = graph if adapter.top_k is None else graph.sparsify(top_k=adapter.top_k)
            return replace(kept, weight=adapter.scheme.reweight(kept))

    def report_skipped(self) -> None:
        """Say on screen how many images were left out, if any."""
        if self.skipped:
            print(f"{len(self.skipped)} of {len(self)} images cannot be read and were left out")

    def _readable(self, items: list[Item]) -> list[tuple[Item, Image.Image | None]]:
        found = []
        for item in items:
            try:
                picture = None if item.image is None else _open(item.image)
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                if self.strict:
                    raise UserError(
                        f"image {item.image} cannot be read ({error}): replace the file, or leave out --strict "
                        "to go on without it"
                    ) from None
                self.skipped.append(str(item.image))
                _tell_once(f"left out: {item.image} cannot be read ({error})")
                continue
            found.append((item, picture))
        return found

    def _batch(self, items: list[tuple[Item, Image.Image | None]]) -> Batch:
        given, pictures = [item for item, _ in items], [picture for _, picture in items]
        with self.running():
            encoded = self.encoder.encode(given, pictures if pictures[0] is not None else None)
        scenes = [item.scene for item in given]
        inputs = {name: x.to(self.device) for name, x in encoded.inputs.items()}
        return Batch(
            **vars(encoded) | {"inputs": inputs},
            names=[item.name for item in given],
            scenes=None if encoded.pictures is None or None in scenes else scenes,
        )


def open_source(args: argparse.Namespace, trained: bool = True) -> Source:
    """The source that the options of :func:`add_source_arguments` describe.

    Args:
        trained: False for the adapters of ``--adapter`` as they were before training (the model then computes what it does
            without them, unless the join is ``replace``).

    Raises:
        UserError: something is missing, damaged or out of range.
    """
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
    model, encoder = load_with_encoder(args.model, args.download)
    name = "mini-BLIP" if args.model is None else type(model).__name__
    if args.images and not encoder.sees:
        raise UserError(f"{name} looks at no images: leave out --images")
    if args.texts and not encoder.reads:
        raise UserError(f"{name} reads no texts: leave out --texts")
    items = _own(args) if args.images or args.texts else _data(args)
    encoder.check(items)
    adapters = {}
    if args.adapter is not None:
        model, adapters, encoder.unadapted = put_in(model, args.adapter, trained, args.seed)
        encoder.model = model
    title = "mini-BLIP" if args.model is None else Path(args.model).name
    return Source(
        model, encoder, items, title, args.batch, args.layers, args.heads, args.device, args.strict, adapters
    )


@cache
def _tell_once(line: str) -> None:
    print(line, file=sys.stderr)


def _own(args: argparse.Namespace) -> list[Item]:
    """Images and texts of the user's own."""
    images = [file for path in args.images or () for file in _files(path)]
    lines = []
    if args.texts:
        try:
            lines = [
                line.strip() for line in args.texts.read_text(encoding="utf-8").splitlines() if line.strip()
            ]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--texts {args.texts} cannot be read ({error}): give a UTF-8 file with a text per line"
            ) from None
        if not lines:
            raise UserError(f"--texts {args.texts} holds no text: give a file with a text per line")
    if args.images and not images:
        raise UserError(
            f"--images: no image files in {', '.join(map(str, args.images))}; give files, or folders with files "
            f"ending in {', '.join(sorted(IMAGE_FILES))}"
        )
    if images and lines and len(lines) not in (1, len(images)):
        raise UserError(
            f"{len(images)} images but {len(lines)} texts in {args.texts}: give one text for each image, or one "
            "for all"
        )
    if not images:
        return [Item(f"text {k + 1}", "", line, None) for k, line in enumerate(lines)][: args.examples]
    texts = lines * len(images) if len(lines) == 1 else lines or [None] * len(images)
    return [Item(file.name, "", text, file) for file, text in zip(images, texts)][: args.examples]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_FILES)
    if not path.exists():
        raise UserError(f"--images {path}: no such file or folder")
    return [path]


def _data(args: argparse.Namespace) -> list[Item]:
    """Examples of a task, a fixed random choice of them."""
    task = TASKS[args.task]
    with tempfile.TemporaryDirectory() as folder:
        data = args.data
        if data is None:  # drawn for this run; the pictures are kept in memory
            place = ("train", "validation", "test").index(args.split)
            counts = tuple(args.examples if k == place else 1 for k in range(3))
            data = write_scenes(Path(folder) / "data", args.seed, Sizes(counts, counts, counts))
        examples = task.examples(data, args.split)
        if len(examples) > args.examples:
            examples = random.Random(args.seed).sample(examples, args.examples)
        drawn = args.data is None and args.task != "easy_vqa"
        return [
            Item(
                example.id,
                task.prompt(example),
                task.target(example, 0.0),
                _open(example.image) if drawn else example.image,
                _scene(example.image),
            )
            for example in examples
        ]


def _open(image: Path | Image.Image) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    with Image.open(image) as file:
        return file.convert("RGB")


def _scene(image: Path) -> Scene | None:
    """What is drawn, where the data's folder says so."""
    known = _scenes(image.parent.parent / "scenes.json")
    return Scene.from_dict(known[image.name]) if image.name in known else None


@cache
def _scenes(file: Path) -> dict[str, dict]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
