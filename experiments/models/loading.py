"""From a folder or hub name to a model family."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig

from attngraph.errors import UserError
from experiments.errors import first_line
from experiments.models.family import FAMILIES, Checkpoint, ModelFamily
from experiments.models.mini_blip import CHECKPOINT


def load_family(name: str | Path | None = None, download: bool = False) -> ModelFamily:
    """A model with what makes its inputs, in float32 and evaluation mode.

    Args:
        name: folder or hub name of a transformers model; None for the mini-BLIP that ships with the package.
        download: look on the hub for what is not on this machine.

    Raises:
        UserError: it cannot be loaded.
    """
    name = None if name is None else str(name)
    options = {"local_files_only": name is None or not download}
    is_folder = name is not None and (Path(name) / "config.json").exists()
    if name is not None and not is_folder and (Path(name).exists() or "/" not in name.strip("/")):
        raise UserError(
            f"--model {name}: no folder with a config.json, and no hub name of the form owner/name"
        )
    try:
        config = AutoConfig.from_pretrained(str(CHECKPOINT) if name is None else name, **options)
        kind = next(family for family in reversed(FAMILIES.values()) if family.accepts(config))
        family = kind.load(Checkpoint(name, config, download))
    except UserError:
        raise
    except Exception as error:  # whatever is wrong with the files means the same to the user
        raise UserError(
            f"--model {name} cannot be loaded ({first_line(error)}): give a folder with config.json, "
            "model.safetensors and the tokenizer's or processor's files, or allow the download (--download)"
        ) from None
    family.title = "mini-BLIP" if name is None else Path(name).name
    return family
