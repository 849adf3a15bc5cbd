"""Adapters pushed to a local stand-in of the hub compute the same to the last bit after each way to load."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from tests.adapters.peft.local_hub import LocalHub

pytestmark = pytest.mark.slow  # each process imports transformers

CLASSES = {"bert": "AutoPeftModel", "blip": "AutoPeftModel", "llama": "AutoPeftModelForCausalLM"}
MINE = b"---\ntags:\n- mine\n---\n\nWritten by hand.\n"
PUSH = """
import torch
from peft import get_peft_model
from tests.adapters.peft.helpers import config, run
from tests.adapters.peft_models import FAMILIES

for name in ("bert", "blip", "llama"):
    family = FAMILIES[name]
    base = family.make()
    base.push_to_hub(f"lab/{name}")
    torch.manual_seed(0)
    task = "CAUSAL_LM" if name == "llama" else None
    model = get_peft_model(type(base).from_pretrained(f"lab/{name}"), config(task_type=task)).eval()
    model.push_to_hub(f"lab/{name}-adapter")
    torch.save(run(model, family.batch()), f"{name}.pt")
model.push_to_hub("lab/described")
"""
LOAD = """
import torch
from peft import get_peft_model
from attngraph.adapters import GraphAdapterConfig
from tests.adapters.peft.helpers import run
from tests.adapters.peft_models import FAMILIES

name = {name!r}
batch = FAMILIES[name].batch()
outputs = [run(model.eval(), batch)]  # of the model that the card's code loads

kind = type(model.get_base_model())
base = kind.from_pretrained(f"lab/{{name}}")
base.load_adapter(f"lab/{{name}}-adapter")  # transformers' method
outputs.append(run(base.eval(), batch))

several = get_peft_model(kind.from_pretrained(f"lab/{{name}}"), GraphAdapterConfig(gnn="gcn"))
several.load_adapter(f"lab/{{name}}-adapter", "pushed")  # PEFT's method
several.set_adapter("pushed")
outputs.append(run(several.eval(), batch))
torch.save(outputs, f"{{name}}-loaded.pt")
"""


@pytest.fixture(scope="module")
def hub():
    """The stand-in, with a repository whose card was written by hand."""
    with LocalHub() as server:
        server.files["lab/described"] = {"README.md": MINE}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def run_python(hub, tmp_path_factory):
    """``run_python(code)``: run code in its own process that knows no other hub; returns its folder."""
    folder = tmp_path_factory.mktemp("hub")
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))
    }
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "cache"),
        "HF_TOKEN": "hf_of_nobody",
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }

    def run(code: str) -> Path:
        (folder / "script.py").write_text(code)
        done = subprocess.run(
            [sys.executable, "script.py"], cwd=folder, env=kept | settings, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return folder

    return run


@pytest.fixture(scope="module")
def pushed(run_python):
    return run_python(PUSH)


@pytest.mark.parametrize("name", CLASSES)
def test_what_was_pushed_is_loaded_by_the_card_and_by_load_adapter(name, hub, pushed, run_python):
    card = hub.files[f"lab/{name}-adapter"]["README.md"].decode()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert f'\nmodel = {CLASSES[name]}.from_pretrained("lab/{name}-adapter")\n' in code
    assert {f"base_model: lab/{name}", "library_name: peft"} <= set(card.splitlines())
    run_python(code + LOAD.format(name=name))
    want = torch.load(pushed / f"{name}.pt")
    for got in torch.load(pushed / f"{name}-loaded.pt"):
        assert torch.equal(got, want)


def test_a_card_written_by_hand_stays(hub, pushed):
    files = hub.files["lab/described"]
    assert files["README.md"].split() == MINE.split() and "adapter_model.safetensors" in files
