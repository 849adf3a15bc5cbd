"""How to load a saved adapter, in the model card that PEFT writes next to it.

PEFT has neither entry points nor another hook by which it could find a method that an installed package adds
(version 0.21): the package must be imported before a checkpoint of its method is loaded.
"""

from __future__ import annotations

from pathlib import Path

CARD = "README.md"
EMPTY = "Use the code below to get started with the model.\n\n[More Information Needed]\n"  # in the template
CODE = """Graph adapters are a method of the Python package attngraph, which is imported before loading:

```python
import attngraph.adapters  # pip install attngraph; without the import, PEFT does not know the method
from peft import PeftModel

base_model = ...  # {base}
model = PeftModel.from_pretrained(base_model, "this folder or repository")
```
"""


def add_code(folder: Path, base: str | None) -> None:
    """Write the code that loads the adapter of a folder into its model card, where PEFT has left that open.

    Args:
        folder: of the adapter; the card is there, or above it for an adapter of another name than "default".
        base: name of the base model.
    """
    for card in (folder / CARD, folder.parent / CARD):
        if card.is_file() and EMPTY in (text := card.read_text(encoding="utf-8")):
            code = CODE.format(base=base or "the base model, loaded as for training")
            card.write_text(text.replace(EMPTY, code), encoding="utf-8")
