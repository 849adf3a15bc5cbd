"""Input of the analysis commands: a model, images and texts, and the resulting attention graphs.

By default this is the shipped mini-BLIP with synthetic scenes and their captions. Alternatives are any
transformers model (``--model``), with the user's images and texts (``--images``, ``--texts``) or a dataset in
its official files (``--data``, ``--task``). With ``--adapter`` the model has graph adapters.
"""

from __future__ import annotations

import json
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.nn.functional import pad

from attngraph import AttentionGraph, capture
from attngraph.adapters.adapter import GraphAdapter
from attngraph.adapters.peft.loading import load_adapter, read_config
from attngraph.errors import UserError
from attngraph.experiments.base.messages import first_line
from attngraph.experiments.base.options import LookOptions
from attngraph.experiments.base.progress import Progress
from attngraph.experiments.base.reading import read_text
from attngraph.experiments.base.shipped import unless_default
from attngraph.experiments.data.drawn import Sizes, scene_of, write_scenes
from attngraph.experiments.models import load_family
from attngraph.experiments.models.batch import Batch, Sample
from attngraph.experiments.models.family import ModelFamily
from attngraph.experiments.models.images import open_image
from attngraph.experiments.models.weights import weights_digest
from attngraph.experiments.runs.device import check_device, is_out_of_memory
from attngraph.experiments.tasks import TASKS, tasks_named
from attngraph.experiments.tasks.task import SPLITS
from attngraph.names import spelled
from attngraph.reading.instrument import instrument

TASK, SPLIT = "caption", "validation"  # where none is given
NOT_SETTINGS = ("out", "download", "batch", "device")
LARGE = 2**27  # edges of a layer's graphs in a batch: 0.5 GB for every array of them
IMAGE_FILES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}

# ---- asked for on the command line ------------------------------------------------------------------------


def settings_of(options: LookOptions, task: str = TASK) -> dict[str, Any]:
    """The settings that determine a command's results, for
    :class:`attngraph.experiments.base.outputs.Outputs`: all options except those for where and how it runs,
    and digests of the weights.

    Args:
        options: options of the command.
        task: default task of the command, if the user gives neither a task nor images or texts.
    """
    settings = {name: value for name, value in vars(options).items() if name not in NOT_SETTINGS}
    settings = {"weights": weights_digest(options.model), **settings, "model": unless_default(options.model)}
    if not brings_own(options):
        settings |= {"task": spelled(options.task or task, TASKS), "split": options.split or SPLIT}
    if options.adapter is not None:
        settings["adapter_weights"] = weights_digest(options.adapter)
    return json.loads(json.dumps(settings, default=str))


def brings_own(options: LookOptions) -> bool:
    """Whether the user's images or texts are used, and not those of a task."""
    return bool(options.images or options.texts)


def open_source(options: LookOptions, trained: bool = True) -> Source:
    """The source defined by options.

    Args:
        options: options of the command.
        trained: False for the adapters of ``--adapter`` in their state before training (which do not change
            the model's output, unless the join is ``replace``).

    Raises:
        UserError: something is missing, damaged or out of range.
    """
    for name in ("data", "task", "split"):
        if brings_own(options) and getattr(options, name):
            raise UserError(
                f"--{name} applies to a task's data, not to your own --images or --texts: remove it"
            )
    task, split = options.task or TASK, options.split or SPLIT
    (task,) = tasks_named([task])
    check_device(options.device)
    family = load_family(options.model, options.download)
    if options.images and not family.takes_images:
        raise UserError(f"{family.title} has no image input: remove --images")
    if options.texts and not family.takes_text:
        raise UserError(f"{family.title} has no text input: remove --texts")
    if brings_own(options):
        samples = own_samples(options.images, options.texts)[: options.examples]
    else:
        samples = task_samples(task, family.name, split, options.data, options.examples, options.seed)
    for sample in Progress(samples, "opening images", leave=False, delay=1):
        if sample.image is not None:
            open_image(sample.image)
    family.check(samples)
    adapters = {} if options.adapter is None else put_in(family, options.adapter, trained, options.seed)
    layers, heads = [*options.layers] or None, [*options.heads] or None
    if heads and any(adapter.query_rows == "noise" for adapter in adapters.values()):
        raise UserError(
            f"--adapter {options.adapter} has noise in its query rows, which is sampled for all heads at "
            "once: remove --heads"
        )
    return Source(family, samples, options.batch, layers, heads, options.device, adapters)


# ---- images and texts -------------------------------------------------------------------------------------


def own_samples(images: Sequence[Path], texts: Path | None) -> list[Sample]:
    """The user's images and texts.

    Args:
        images: files, or folders of them.
        texts: a file with a text per line, one for each image or one for all.

    Raises:
        UserError: a file is missing or given twice, or the numbers of images and texts do not match.
    """
    files = [file for path in images for file in _image_files(path)]
    lines = [] if texts is None else _lines(texts)
    if images and not files:
        raise UserError(
            f"--images: no image files in {', '.join(map(str, images))}; use files, or folders with files "
            f"ending in {', '.join(sorted(IMAGE_FILES))}"
        )
    if not files:
        return [Sample(f"text {k + 1}", None, "", line) for k, line in enumerate(lines)]
    if len(lines) not in (0, 1, len(files)):
        raise UserError(
            f"{len(files)} images but {len(lines)} texts in {texts}: use one text for each image, or one "
            "for all"
        )
    answers = lines if len(lines) == len(files) else (lines or [None]) * len(files)
    names = [file.name for file in files]
    if len({*names}) < len(names):
        names = [str(file) for file in files]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise UserError(f"--images: {twice[0]} is given twice: remove it once, or copy it under another name")
    return [Sample(name, file, "", answer) for name, file, answer in zip(names, files, answers)]


def task_samples(
    task_name: str, family: str, split: str, data: Path | None = None, limit: int = 64, seed: int = 0
) -> list[Sample]:
    """Examples of a task with their answers, a fixed random subset.

    Args:
        task_name: as in ``--task``.
        family: family of the model, which may have a particular prompt.
        split: ``train``, ``validation`` or ``test``.
        data: folder of the data; None for synthetic data generated for this call, with images in memory.
        limit: maximum number of examples.
        seed: seed of the subset and of synthetic data.
    """
    task = TASKS[task_name]
    if task.packaged and data is not None:
        raise UserError(f"--data {data}: the examples of {task_name} are in a package: remove --data")
    if data is None:
        task.check(None)
    drawn = data is None and task.drawn is not None
    with tempfile.TemporaryDirectory() as folder:
        if drawn:
            counts = tuple(limit if name == split else 1 for name in SPLITS)
            few = dict.fromkeys(asdict(Sizes()), (1, 1, 1))
            data = write_scenes(Path(folder) / "data", seed, Sizes(**few | {task.drawn: counts}))
        examples = task.examples(Path(folder) if data is None else data, split)
        if len(examples) > limit:
            examples = random.Random(seed).sample(examples, limit)
        samples = []
        for example in Progress(examples, "reading examples", leave=False, delay=1):
            sample = task.sample(example, family, draw=0.0)
            image = open_image(example.image) if drawn else example.image
            samples.append(replace(sample, image=image, scene=scene_of(example.image)))
        return samples


def _lines(texts: Path) -> list[str]:
    content = read_text(texts, "use a UTF-8 file with one text per line")
    lines = [line.strip() for line in re.split(r"[\r\n]", content)]  # no other sign ends a line
    if not any(lines):
        raise UserError(f"--texts {texts} is empty: use a file with one text per line")
    return [line for line in lines if line]


def _image_files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_FILES)
    if not path.exists():
        raise UserError(f"--images {path}: no such file or folder; use image files, or folders of them")
    return [path]


# ---- adapters ---------------------------------------------------------------------------------------------


def put_in(family: ModelFamily, path: Path, trained: bool = True, seed: int = 0) -> dict[str, GraphAdapter]:
    """Load saved adapters into a model.

    Args:
        family: the frozen model that they were trained for; its model is changed in place, and its
            ``unadapted`` becomes the context in which the adapters are off.
        path: a folder saved by PEFT, such as the folder of a run.
        trained: False for the initial weights of a new adapter, with this seed.
        seed: seed of a new adapter's weights.

    Returns:
        ``{name of the layer in attngraph.capture: adapter}``.

    Raises:
        UserError: no such folder, a damaged one, or adapters of another model or type.
    """
    try:
        adapted = load_adapter(family.model, path)
    except UserError as error:
        raise UserError(f"--adapter {error}") from None
    if not trained:  # the same ones as new, once it is known that they fit
        base: Any = adapted.unload()
        torch.manual_seed(seed)
        adapted = get_peft_model(base, read_config(path))
    family.model = adapted.get_base_model().eval()
    family.unadapted = adapted.disable_adapter
    return adapted.base_model.layers()


# ---- the model's graphs -----------------------------------------------------------------------------------


@dataclass
class Source:
    """A model and its samples.

    Args:
        family: the model with its processor.
        samples: the samples.
        batch_size: number of samples in a forward pass.
        layers, heads: the chosen ones; None for all.
        device: device of the model.
        adapters: ``{layer: adapter}`` of an adapted model.
        stream: whether graphs are streamed, see :func:`attngraph.capture`.
    """

    family: ModelFamily
    samples: list[Sample]
    batch_size: int = 16
    layers: list[str] | None = None
    heads: list[int] | None = None
    device: str = "cpu"
    adapters: dict[str, GraphAdapter] = field(default_factory=dict)
    stream: bool = False

    def __post_init__(self):
        self.family.model.to(self.device).eval()

    @property
    def model(self) -> nn.Module:
        """The model, in evaluation mode."""
        return self.family.model

    @property
    def title(self) -> str:
        """The model's name for titles and messages."""
        return self.family.title

    def batches(self, doing: str | None = None) -> Iterator[Batch]:
        """The samples in order.

        Args:
            doing: text of a progress bar; None for no bar.
        """
        starts = range(0, len(self.samples), self.batch_size)
        for start in Progress(starts, doing, leave=False, disable=doing is None):
            samples = [
                sample if sample.image is None else replace(sample, image=open_image(sample.image))
                for sample in self.samples[start : start + self.batch_size]
            ]
            with self.reading():
                batch = self.family.batch(samples)
            yield batch.to(self.device)

    def graphs(self, doing: str | None = None) -> Iterator[tuple[Batch, dict[str, AttentionGraph]]]:
        """Each batch with the attention graphs of the chosen layers and heads, ``{layer: graph}``."""
        for batch in self.batches(doing):
            yield batch, self.read(batch, self.layers, self.heads)

    def read(
        self, batch: Batch, layers: list[str] | None = None, heads: list[int] | None = None
    ) -> dict[str, AttentionGraph]:
        """The attention graphs of a batch, by default of all layers and heads, ``{layer: graph}``."""
        with self.reading():
            graphs = capture(self.model, batch.inputs, layers=layers, heads=heads, stream=self.stream)
        return calls_as_examples(graphs, batch.inputs)

    def is_large(self) -> bool:
        """Whether graphs of the first batch have more than :data:`LARGE` edges, and can be streamed: this is
        not possible for a model with adapters, or with images as a list of patches.
        """
        batch = next(self.batches(), None)
        pixels = None if batch is None else batch.inputs.get("pixel_values")
        if batch is None or self.adapters or (pixels is not None and pixels.dim() == 2):
            return False
        if _most_edges(batch.inputs) <= LARGE:
            return False
        sizes = [0]
        with self.reading(), torch.random.fork_rng(), torch.no_grad():
            handle = instrument(self.model, fused=True)
            for site in handle.sites.values():
                site.listeners.append(
                    lambda call: sizes.append(call.query[..., 0].numel() * call.key.shape[2])
                )
            try:
                self.model(**batch.inputs)
            finally:
                handle.remove()
        return max(sizes) > LARGE

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn errors of a model, its processor, or the capture of its attention into one-line errors.

        Raises:
            UserError: instead of any of these errors.
        """
        try:
            yield
        except UserError as error:
            told = str(error).replace("layers=...", "--layers").replace("choose heads", "choose --heads")
            raise UserError(told) from None
        except Exception as error:  # models, their processors and what reads them raise all kinds
            if isinstance(error, MemoryError) or is_out_of_memory(error):
                raise UserError(f"{self.title}: out of memory: use a smaller --batch") from error
            raise UserError(
                f"{self.title} cannot be run on these images and texts ({type(error).__name__}: "
                f"{first_line(error)}): check that it supports them, exclude layers that fail (--layers), or "
                "use another --model"
            ) from error

    def reweighted(self, name: str, graph: AttentionGraph) -> AttentionGraph | None:
        """The graph with the weights that the layer's adapter uses instead of M; None if there is no
        adapter."""
        adapter = self.adapters.get(name)
        return None if adapter is None else adapter.reweighted(graph)


def _most_edges(inputs: Mapping[str, Any]) -> int:
    """An upper bound for the number of edges of a layer's graphs, from the sizes of a model's inputs: with a
    node for each token or 16 pixels, and 64 heads.
    """
    nodes = 0
    for x in inputs.values():
        if isinstance(x, Tensor) and x.dim() > 1:
            nodes = max(nodes, x[0, 0].numel() // 16 if x.dim() > 3 else x.shape[1])
    return 64 * nodes**2 * max(len(x) for x in inputs.values() if isinstance(x, Tensor))


def calls_as_examples(
    graphs: Mapping[str, AttentionGraph], inputs: Mapping[str, Tensor]
) -> dict[str, AttentionGraph]:
    """The graphs of a batch, with a single graph for each layer of an image encoder that was called for each
    image, or for each window of an image: the calls, in their order, are the graph's examples, padded to the
    size of the largest.

    Args:
        graphs: ``{layer: graph}``; calls of one layer are named ``layer``, ``layer#2`` and so on.
        inputs: inputs of the model; ``pixel_values`` with two axes are the patches of all images in one list.
    """
    pixels = inputs.get("pixel_values")
    if pixels is None or pixels.dim() != 2:
        return dict(graphs)
    calls: dict[str, list[AttentionGraph]] = {}
    for name, graph in graphs.items():
        in_image_encoder = graph.query_modality == "image" and graph.kind == "self"
        calls.setdefault(name.partition("#")[0] if in_image_encoder else name, []).append(graph)
    return {name: parts[0] if len(parts) == 1 else _stacked(parts) for name, parts in calls.items()}


def _stacked(graphs: Sequence[AttentionGraph]) -> AttentionGraph:
    """Self-attention graphs without masks as the examples of one batch."""
    sizes = torch.tensor([graph.shape[2] for graph in graphs], device=graphs[0].query.device)
    missing = (sizes.max() - sizes).tolist()
    there = torch.arange(int(sizes.max()), device=sizes.device) < sizes[:, None]
    return replace(
        graphs[0],
        query=torch.cat([pad(graph.query, (0, 0, 0, k)) for graph, k in zip(graphs, missing)]),
        value=torch.cat([pad(graph.value, (0, 0, 0, k)) for graph, k in zip(graphs, missing)]),
        weight=torch.cat([pad(graph.weight, (0, k, 0, k)) for graph, k in zip(graphs, missing)]),
        query_mask=there,
        value_mask=there,
    )
