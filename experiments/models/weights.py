"""A model's weights: loading and saving without messages, and digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import logging as hub_logging
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from attngraph.errors import UserError
from attngraph.experiments.base.progress import is_quiet
from attngraph.experiments.base.shipped import shipped_folder
from attngraph.experiments.models.family import Checkpoint

OLD_BUFFERS = {"inv_freq", "masked_bias", "position_ids"}  # former versions of transformers saved them
VOCABULARY = ("vocab.txt", "tokenizer.json")  # BERT's, a word a line; transformers' own


def load_weights(
    kind: type[PreTrainedModel], checkpoint: Checkpoint, complete: bool = True, **options: Any
) -> PreTrainedModel:
    """A model in float32 and evaluation mode; a model in memory is returned unchanged.

    Args:
        kind: class of the model.
        checkpoint: source of its weights.
        complete: raise an error if the weights of a head are missing, too.
        options: options of ``from_pretrained``.

    Raises:
        UserError: the weights are not those of the configuration; see :func:`misfits`.
    """
    if checkpoint.model is not None:
        return checkpoint.model
    model, report = kind.from_pretrained(
        checkpoint.place,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
        **checkpoint.options,
        **options,
    )
    wrong = misfits(model, report, complete)
    if wrong:
        raise UserError(
            f"{len(wrong)} weights are missing, of another shape, or of layers that config.json does not "
            f"describe, first {wrong[0]}: use a checkpoint whose config.json and weights belong together"
        )
    return model.eval()


def misfits(model: PreTrainedModel, report: dict[str, Any], complete: bool = True) -> list[str]:
    """The names of weights that differ between a file and a model.

    Missing weights would be initialised randomly, and additional layers of the file would be ignored, both
    without an error. Weights that transformers ignores (tied weights, buffers) are not reported, and neither
    are poolers, which published image encoders often lack and attention does not need. Weights of the file
    outside of the model's numbered layers are considered the head of another task. Unless ``complete``,
    weights outside of the base model, such as a head, may be missing.

    Args:
        model: the loaded model.
        report: transformers' loading information.
        complete: see above.
    """
    prefix = f"{model.base_model_prefix}."
    base = "" if complete or model.base_model is model else prefix
    missing = [x for x in report["missing_keys"] if x.startswith(base) and "pooler" not in x.split(".")]
    lists = [
        f"{name}."
        for name, module in model.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential))
    ]
    # A base model and one with a head load each other's files.
    lists = tuple(other for name in lists for other in (name, prefix + name, name.removeprefix(prefix)))
    unused = [
        key
        for key in report["unexpected_keys"]
        if key.startswith(lists) and key.rpartition(".")[2] not in OLD_BUFFERS
    ]
    return sorted([*missing, *map(str, report["mismatched_keys"]), *unused])


@contextmanager
def quiet_transformers(download: bool = False) -> Iterator[None]:
    """Show progress bars for downloads only, not for reading or writing weights, and suppress transformers'
    messages about errors.

    Args:
        download: whether downloads from the hub are permitted.
    """
    shown = logging.is_progress_bar_enabled()
    verbosity, hub_verbosity = logging.get_verbosity(), hub_logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    hub_logging.set_verbosity(logging.CRITICAL)
    if not download or is_quiet():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if shown:
            logging.enable_progress_bar()


def in_folder(folder: Path) -> Path | None:
    """The file with a vocabulary in a folder."""
    return next((folder / name for name in VOCABULARY if (folder / name).is_file()), None)


def weights_digest(path_or_name: str | Path | None = None) -> str:
    """A digest of a checkpoint folder's weights, configuration, tokenizer and processor (None or a name of
    :mod:`attngraph.experiments.base.shipped`: a shipped folder), or of an original checkpoint and the
    vocabulary next to it; for a hub name, the name itself.
    """
    folder = shipped_folder(path_or_name) or Path(str(path_or_name))
    if folder.is_file():
        files = list(filter(None, (folder, in_folder(folder.parent))))
    else:
        patterns = ("*.safetensors", "*config.json", "tokenizer.json", "chat_template*")
        files = sorted(file for pattern in patterns for file in folder.glob(pattern))
    if not files:
        return str(path_or_name)
    return _digest(tuple((file, file.stat().st_mtime_ns) for file in files))


@cache
def _digest(files: tuple[tuple[Path, int], ...]) -> str:
    digest = hashlib.sha256()
    for file, _ in files:
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:24]
