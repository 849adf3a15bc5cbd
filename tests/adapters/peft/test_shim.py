"""Importing our package registers graph adapters with PEFT; without it, PEFT's error says what to import."""

import copy
import enum
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from peft import PeftConfig, get_peft_model
from peft.utils import PeftType

from attngraph.adapters import GraphAdapterConfig
from attngraph.adapters.config import PEFT_TYPE, SAVED_NAME, add_member
from tests.adapters.peft_models import FAMILIES


def test_an_added_member_is_like_any_other():
    Kind = enum.Enum("Kind", {"A": "A"}, type=str)
    member = add_member(Kind, "B")
    assert list(Kind) == [Kind.A, Kind.B] and len(Kind) == 2 and "B" in list(Kind)
    assert Kind.B is Kind("B") is Kind["B"] is member and isinstance(member, Kind)
    assert (member.name, member.value, member, hash(member)) == ("B", "B", "B", hash("B"))
    assert add_member(Kind, "B") is member and add_member(Kind, "A") is Kind.A
    assert PeftType.GRAPH_ADAPTER is PEFT_TYPE
    assert pickle.loads(pickle.dumps(PEFT_TYPE)) is PEFT_TYPE and copy.deepcopy(PEFT_TYPE) is PEFT_TYPE


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(FAMILIES["gpt2"].make(), GraphAdapterConfig(p=1.25)).save_pretrained(folder)
    return folder


def test_the_saved_type_says_what_to_import(saved):
    assert json.loads((saved / "adapter_config.json").read_text())["peft_type"] == SAVED_NAME
    assert type(PeftConfig.from_pretrained(saved)) is GraphAdapterConfig


def test_the_model_card_says_how_to_load(saved, tmp_path):
    """Once, also where PEFT saves into a folder again, and in no other README."""
    card = (saved / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert "[More Information Needed]" not in card.partition("## How to Get Started")[2].partition("\n## ")[0]
    assert code.splitlines()[0].startswith("import attngraph.adapters") and compile(code, "card", "exec")
    model = get_peft_model(FAMILIES["gpt2"].make(), GraphAdapterConfig())
    model.add_adapter("second", GraphAdapterConfig())
    for _ in range(2):
        model.save_pretrained(saved.parent / "two")
        assert (saved.parent / "two" / "README.md").read_text().count("import attngraph.adapters") == 1
    (tmp_path / "README.md").write_text("mine")
    model.peft_config["default"].save_pretrained(tmp_path / "config")
    model.peft_config["default"].save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine" and not (tmp_path / "config" / "README.md").exists()


def test_the_card_loads_the_base_model_from_the_hub_only(tmp_path):
    """The path of a folder would be wrong on any other machine."""
    for base, kind in (("name/gpt2", "AutoPeftModel"), (str(tmp_path), "PeftModel")):
        model = FAMILIES["gpt2"].make()
        model.name_or_path = base
        get_peft_model(model, GraphAdapterConfig()).save_pretrained(tmp_path / kind)
        assert f"\nmodel = {kind}.from_pretrained(" in (tmp_path / kind / "README.md").read_text()


def test_the_card_of_an_adapter_in_a_subfolder(tmp_path):
    """It lies above the adapter, so its code has to name the subfolder."""
    model = get_peft_model(FAMILIES["gpt2"].make(), GraphAdapterConfig(p=1.3), adapter_name="graph")
    model.save_pretrained(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    code = code.replace("base_model = ...", "").replace("this folder or repository", str(tmp_path))
    loaded = {"base_model": FAMILIES["gpt2"].make()}
    exec(code, loaded)
    assert loaded["model"].peft_config["default"].p == 1.3


@pytest.mark.slow
def test_loading_with_and_without_our_package(saved):
    load = f"from peft import PeftConfig\nprint(PeftConfig.from_pretrained({str(saved)!r}).p)"
    with_us, without = (
        subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True
        )
        for code in (f"import attngraph.adapters\n{load}", load)
    )
    assert (with_us.returncode, with_us.stdout) == (0, "1.25\n"), with_us.stderr
    last = without.stderr.strip().splitlines()[-1]
    assert without.returncode == 1 and last.startswith("KeyError: ")
    assert "attngraph" in last and "`import attngraph.adapters` before loading" in last
