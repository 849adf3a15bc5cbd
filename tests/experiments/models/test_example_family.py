"""A family in a file of its own takes a checkpoint, and is looked at like others; how it is trained and asked
is in test_contract."""

from pathlib import Path

import pandas as pd

from attngraph.experiments.cli import main
from attngraph.experiments.models import FAMILIES, Decoding, load_family
from attngraph.experiments.runs.plugins import load_plugins
from tests.experiments.models.writers import SAMPLES, load
from tests.experiments.tiny import save

EXAMPLE = Path(__file__).parents[1] / "examples" / "example_family.py"


def test_the_last_registered_family_takes_the_checkpoint(tmp_path):
    before, folder = dict(FAMILIES), save("gpt2", tmp_path / "gpt2")
    try:
        load_plugins([EXAMPLE])
        assert set(FAMILIES) - set(before) == {"blind"}
        family = load_family(folder)
        assert type(family) is FAMILIES["blind"] and family.title == "GPT2LMHeadModel (gpt2)"
        (tmp_path / "texts.txt").write_text("red\na red ball\n")
        words = f"tsne --model {folder} --texts {tmp_path}/texts.txt --method pca --out {tmp_path}/out"
        assert main(["--plugin", str(EXAMPLE), *words.split()]) == 0
    finally:
        FAMILIES.pop("blind")
    assert before == FAMILIES
    table = pd.read_csv(tmp_path / "out" / "coordinates.csv", keep_default_na=False)
    assert {"red", "ball", "[CLS]", "[SEP]"} <= set(table.token) and "[PAD]" not in set(table.token)


def test_it_writes_as_long_as_it_is_told():
    family = load("blind")
    short, long = (family.generate(SAMPLES, Decoding(6, min_new_tokens=least)) for least in (0, 6))
    assert all(len(text.split()) == 6 for text in long) and any(len(text.split()) < 6 for text in short)
