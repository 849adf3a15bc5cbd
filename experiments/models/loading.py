"""From a folder, an original checkpoint or a hub name to a model family."""

from __future__ import annotations

from pathlib import Path
from types import NoneType

import transformers
from peft import PeftModel
from transformers import AutoConfig, GenerationConfig, PreTrainedModel

from attngraph.errors import UserError
from attngraph.experiments.base.messages import first_line
from attngraph.experiments.base.progress import note
from attngraph.experiments.base.reading import read_json
from attngraph.experiments.base.shipped import DEFAULT, SHIPPED, again, shipped_folder
from attngraph.experiments.models.convert import kind_of, load_original
from attngraph.experiments.models.family import FAMILIES, Checkpoint, ModelFamily
from attngraph.experiments.models.weights import quiet_transformers

FILES = "config.json, model.safetensors and the tokenizer's or processor's files"


def load_family(
    name: str | Path | PreTrainedModel | PeftModel | None = None,
    download: bool = False,
    side: int | None = None,
) -> ModelFamily:
    """A model with its processor, in float32 and evaluation mode.

    Args:
        name: folder or hub name of a transformers model, an original checkpoint (see
            :mod:`attngraph.experiments.models.convert`), or a name of
            :mod:`attngraph.experiments.base.shipped`; None for the shipped mini-BLIP. A ``Path`` is always a
            file or folder. A model in memory is used with the tokenizer or processor of the folder or hub
            name that it was loaded from.
        download: whether missing files may be downloaded from the hub.
        side: side of its input images, in pixels; None for the checkpoint's.

    Raises:
        UserError: the model cannot be loaded.
    """
    if isinstance(name, (PreTrainedModel, PeftModel)):
        family = _in_memory(name, download)
    elif not isinstance(name, (str, Path, NoneType)):
        raise UserError(
            f"{type(name).__name__} is not a model with a tokenizer or processor: use a transformers or PEFT "
            "model that was loaded with from_pretrained, or a model's folder or name"
        )
    elif (shipped := shipped_folder(name)) is not None:
        family = _shipped(str(name or DEFAULT), shipped)
    else:
        family = load_original(Path(name)) if Path(name).is_file() else _own(str(name), download)
        family.title = f"{type(family.model).__name__} ({Path(name).resolve().name})"
    if side is not None and side != family.image_side:
        family.resize(side)
    return family


def type_of(name: str | PreTrainedModel | None) -> str | None:
    """The type of a model, such as ``blip`` or ``mplug``; for a checkpoint without loading it: from the
    folder's configuration, or the origin of an original checkpoint; None if neither is on this machine.

    Raises:
        UserError: the checkpoint is damaged or unknown.
    """
    if isinstance(name, PreTrainedModel):
        return name.config.model_type
    place = shipped_folder(name) or Path(str(name))
    if place.is_file():
        return kind_of(place)
    config = read_json(place / "config.json") if (place / "config.json").exists() else None
    return config.get("model_type") if isinstance(config, dict) else None


def _shipped(name: str, folder: Path) -> ModelFamily:
    """A shipped model by its name."""
    if not (folder / "config.json").exists():
        raise UserError(f"--model {name}: {folder} is missing or incomplete: {again(name)}")
    family = _from_transformers(None if name == DEFAULT else str(folder), name, again(name))
    family.title = SHIPPED[name]
    return family


def _own(name: str, download: bool) -> ModelFamily:
    """A model of a folder or hub name."""
    if (Path(name) / "config.json").exists():
        return _from_transformers(name, name, f"check the folder's files: {FILES}")
    if Path(name).exists() or "/" not in name.strip("/"):
        raise UserError(
            f"--model {name}: not a folder with a config.json, and not a hub name of the form owner/name"
        )
    if download:
        note(f"searching for {name} on the hub")
    otherwise = "check the name and the network" if download else f"allow the download (--model hub:{name})"
    return _from_transformers(name, name, f"use a folder with {FILES}, or {otherwise}", download)


def _in_memory(model: PreTrainedModel | PeftModel, download: bool) -> ModelFamily:
    """The family of a model that was loaded and perhaps adapted by the user."""
    if isinstance(model, PeftModel):
        if model.active_peft_config.is_prompt_learning:
            kind = model.active_peft_config.peft_type.value
            raise UserError(
                f"PEFT's wrapper adds the tokens of {kind} outside of the model, where they are not read: "
                "train the methods prompt_tuning, p_tuning or prefix with attngraph"
            )
        family = _in_memory(model.get_base_model(), download)
        family.unadapted = model.disable_adapter
        return family
    place = model.name_or_path
    if not place:
        raise UserError(
            f"this {type(model).__name__} does not say where its tokenizer is: load it with from_pretrained, "
            "or save it with its tokenizer and use the folder"
        )
    family = _from_transformers(place, place, f"use a folder with {FILES}", download, model)
    family.title = f"{type(model).__name__} ({Path(place).name})"
    return family


def _from_transformers(
    place: str | None,
    name: str,
    remedy: str,
    download: bool = False,
    model: PreTrainedModel | None = None,
) -> ModelFamily:
    try:
        with quiet_transformers(download):
            folder = place or str(shipped_folder(None))
            if model is None:
                config = AutoConfig.from_pretrained(folder, local_files_only=not download)
                _check_config(config, Path(folder))
            else:
                config = model.config
            kind = next(family for family in reversed(FAMILIES.values()) if family.accepts(config))
            family = kind.load(Checkpoint(place, config, download, model))
    except UserError as error:
        raise UserError(f"--model {name}: {error}") from None
    except Exception as error:  # whatever is wrong with the files means the same to the user
        raise UserError(f"--model {name} cannot be loaded ({first_line(error)}): {remedy}") from None
    words = getattr(family, "tokenizer", None)
    if words is not None and not set(words.get_vocab()) - set(words.all_special_tokens):
        raise UserError(  # transformers makes an empty tokenizer where files are missing
            f"--model {name}: the tokenizer has no vocabulary: add the tokenizer's files (tokenizer.json)"
        )
    return family


def _check_config(config: transformers.PretrainedConfig, folder: Path) -> None:
    """Check for errors that transformers ignores: a model class that does not match the configuration's type,
    and an unreadable ``generation_config.json``.
    """
    for name in config.architectures or ():
        own = getattr(getattr(transformers, name, None), "config_class", None)
        if own is not None and not isinstance(config, own):
            raise UserError(
                f"config.json has the model_type {config.model_type}, which does not match {name} in its "
                "architectures: restore it"
            )
    if (folder / "generation_config.json").exists():
        GenerationConfig.from_pretrained(folder)
