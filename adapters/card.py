"""How to load a saved or uploaded adapter, in its model card.

PEFT has neither entry points nor another hook by which it could find a method that an installed package adds
(version 0.21): the package must be imported before a checkpoint of its method is loaded.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from huggingface_hub.utils import HFValidationError, validate_repo_id
from peft import PeftModel
from peft.auto import MODEL_TYPE_TO_PEFT_MODEL_MAPPING
from peft.utils import CONFIG_NAME
from transformers.utils import PushToHubMixin

NAME = "graph_adapter"  # of the method in PEFT
CARD = "README.md"
EMPTY = "Use the code below to get started with the model.\n\n[More Information Needed]\n"  # in the template
CODE = """Graph adapters are a method of the Python package attngraph, which is imported before loading:

```python
import attngraph.adapters  # pip install attngraph; without the import, PEFT does not know the method
{code}
```
"""
WITH_BASE = """from peft import {kind}

model = {kind}.from_pretrained({source})"""
WITHOUT_BASE = """from peft import PeftModel

base_model = ...  # {base}
model = PeftModel.from_pretrained(base_model, {source})"""


def add_code(folder: Path, source: str = "this folder or repository") -> None:
    """Write the code that loads the adapter of a folder into its model card, where that was left open.

    Args:
        folder: of the adapter; the card is there, or above it for an adapter of another name than "default".
        source: the folder or repository to load from.
    """
    for card in (folder / CARD, folder.parent / CARD):
        if card.is_file() and EMPTY in (text := card.read_text(encoding="utf-8")):
            subfolder = "" if card.parent == folder else folder.name
            text = text.replace(EMPTY, CODE.format(code=_code(folder, source, subfolder)))
            card.write_text(text, encoding="utf-8")


def upload_with_code(model: PeftModel, working_dir: str, repo_id: str, *args: Any, **options: Any) -> Any:
    """Upload the folder that ``push_to_hub`` saved a model in.

    In place of the card that PEFT saved, transformers writes that of the repository or, in a new one, an
    empty card for a model of transformers. The empty one becomes an adapter's, with the code that loads it.

    Args:
        model: with or without graph adapters.
        working_dir, repo_id, args, options: as in ``PushToHubMixin._upload_modified_files``.
    """
    folder = Path(working_dir)
    ours = {name: x for name, x in model.peft_config.items() if x.peft_type == NAME.upper()}
    card = ModelCard.load(folder / CARD)
    if ours and EMPTY in card.content:
        card.data["library_name"] = "peft"
        base = next(iter(ours.values())).base_model_name_or_path
        if _is_on_hub(base):  # the hub rejects a card with a path there
            card.data["base_model"] = base
        card.save(folder / CARD)
        for name in ours:
            add_code(folder if name == "default" else folder / name, repo_id)
    return PushToHubMixin._upload_modified_files(model, working_dir, repo_id, *args, **options)


def _is_on_hub(base: str | None) -> bool:
    """Whether the saved name of a base model is not a local path, which is valid on one machine only."""
    try:
        validate_repo_id(str(base))
    except HFValidationError:
        return False
    return bool(base) and not os.path.exists(str(base))


def _code(folder: Path, source: str, subfolder: str) -> str:
    """The lines that load an adapter, with its base model if PEFT finds that on the hub."""
    saved = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    base, task = saved.get("base_model_name_or_path"), saved.get("task_type")
    library = (saved.get("auto_mapping") or {}).get("parent_library", "")
    if subfolder or not _is_on_hub(base) or not (task or library.startswith("transformers.")):
        at = f'"{source}", subfolder="{subfolder}"' if subfolder else f'"{source}"'
        return WITHOUT_BASE.format(source=at, base=base or "the base model, loaded as for training")
    kind = f"Auto{MODEL_TYPE_TO_PEFT_MODEL_MAPPING[task].__name__}" if task else "AutoPeftModel"
    return WITH_BASE.format(source=f'"{source}"', kind=kind)
