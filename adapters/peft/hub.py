"""The model card of graph adapters that ``PeftModel.push_to_hub`` uploads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from peft import PeftModel
from transformers.utils import PushToHubMixin

from attngraph.adapters.card import CARD, EMPTY, add_code, is_on_hub
from attngraph.adapters.config import GraphAdapterConfig


def upload_with_code(model: PeftModel, working_dir: str, repo_id: str, *args: Any, **options: Any) -> Any:
    """Upload the folder that ``push_to_hub`` saved a model in.

    In place of the card that PEFT saved, transformers writes that of the repository or, in a new one, an
    empty card for a model of transformers. The empty one becomes an adapter's, with the code that loads it.

    Args:
        model: with or without graph adapters.
        working_dir, repo_id, args, options: as in ``PushToHubMixin._upload_modified_files``.
    """
    folder = Path(working_dir)
    ours = {name: x for name, x in model.peft_config.items() if isinstance(x, GraphAdapterConfig)}
    card = ModelCard.load(folder / CARD)
    if ours and EMPTY in card.content:
        card.data["library_name"] = "peft"
        base = next(iter(ours.values())).base_model_name_or_path
        if is_on_hub(base):  # the hub rejects a card with a path there
            card.data["base_model"] = base
        card.save(folder / CARD)
        for name in ours:
            add_code(folder if name == "default" else folder / name, repo_id)
    return PushToHubMixin._upload_modified_files(model, working_dir, repo_id, *args, **options)
