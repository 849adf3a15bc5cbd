"""A model's weights: loaded, saved and read quietly, and known by a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
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
from experiments.base.progress import is_quiet
from experiments.base.shipped import shipped_folder
from experiments.models.family import Checkpoint
from experiments.models.vocabulary import in_folder

OLD_BUFFERS = {"inv_freq", "masked_bias", "position_ids"}  # former versions of transformers saved them


def load_weights(
    kind: type[PreTrainedModel], checkpoint: Checkpoint, complete: bool = True, **options: Any
) -> PreTrainedModel:
    """A model in float32 and evaluation mode.

    Args:
        kind: its class.
        checkpoint: where its weights are.
        complete: refuse a checkpoint that lacks the weights of a head, too.
        options: of ``from_pretrained``.

    Raises:
        UserError: the weights are not those of the configuration; see :func:`misfits`.
    """
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
        raise UserError(f"{wrong}: give a checkpoint whose config.json and weights belong together")
    return model.eval()


def misfits(model: PreTrainedModel, report: dict[str, Any], complete: bool = True) -> str:
    """In which weights a file and a model differ, in words; empty where they belong together.

    Weights that the file lacks would be drawn at random, and layers that only the file has would be left out,
    both without an error. What transformers itself ignores counts neither way (tied weights, buffers), nor do
    poolers, which published image encoders often lack and attention does not need. Weights of the file
    outside of the model's numbered layers are another task's head. Unless the model is to be ``complete``,
    weights outside of the base model, such as a head of its own, may be missing.

    Args:
        model: as it was loaded.
        report: transformers' loading information.
        complete: see above.
    """
    base = "" if complete or model.base_model is model else f"{model.base_model_prefix}."
    missing = sorted(
        key for key in report["missing_keys"] if key.startswith(base) and "pooler" not in key.split(".")
    )
    missing += [str(key) for key in report["mismatched_keys"]]
    if missing:
        return f"{len(missing)} weights missing or of another shape, first {missing[0]}"
    modules = model.named_modules()
    lists = {name for name, module in modules if isinstance(module, (nn.ModuleList, nn.Sequential))}
    unused = [
        key
        for key in sorted(report["unexpected_keys"])
        if key.rpartition(".")[2] not in OLD_BUFFERS
        and any(_in_layer(name, lists) for name in _names(model, key))
    ]
    if unused:
        return f"{len(unused)} weights of layers that config.json does not describe, first {unused[0]}"
    return ""


def _names(model: PreTrainedModel, key: str) -> tuple[str, str, str]:
    """The names that a weight of the file may go by in the model: a base model and one with a head load each
    other's files."""
    prefix = f"{model.base_model_prefix}."
    return key, key.removeprefix(prefix), prefix + key


def _in_layer(name: str, lists: set[str]) -> bool:
    """Whether a weight lies in a numbered layer of one of some lists of modules."""
    parts = name.split(".")
    return any(part.isdigit() and ".".join(parts[:k]) in lists for k, part in enumerate(parts))


@contextmanager
def quiet_transformers(download: bool = False) -> Iterator[None]:
    """Shows bars of progress for downloads, and none while weights are read from the disk or written; what is
    wrong with these is told in our words alone.

    Args:
        download: whether the hub may be asked.
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


def weights_digest(path_or_name: str | Path | None = None) -> str:
    """A digest of a checkpoint folder's weights, configuration, tokenizer and processor (None or a name of
    :mod:`experiments.base.shipped`: a shipped folder), or of an original checkpoint and the vocabulary next
    to it; a hub name stands for itself.
    """
    folder = shipped_folder(path_or_name) or Path(str(path_or_name))
    if folder.is_file():
        return _digest(_dated(filter(None, (folder, in_folder(folder.parent)))))
    patterns = ("*.safetensors", "*config.json", "tokenizer.json", "chat_template*")
    files = sorted(file for pattern in patterns for file in folder.glob(pattern)) if folder.is_dir() else []
    return _digest(_dated(files)) if files else str(path_or_name)


def _dated(files: Iterable[Path]) -> tuple[tuple[Path, int], ...]:
    return tuple((file, file.stat().st_mtime_ns) for file in files)


@cache
def _digest(files: tuple[tuple[Path, int], ...]) -> str:
    digest = hashlib.sha256()
    for file, _ in files:
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:24]
