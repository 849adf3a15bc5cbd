"""The card of a checkpoint."""

import json

import pytest

from experiments.models import load_family
from experiments.models.mini_blip import CHECKPOINT
from experiments.pretraining.minis import MINIS
from experiments.pretraining.model_card import write_card


def test_runs_with_other_seeds_are_columns_of_the_card(tmp_path):
    model = load_family().model
    saved = json.loads((CHECKPOINT / "scores.json").read_text())
    other = {name: value - 0.031 for name, value in saved["scores"].items()}
    arguments = (
        tmp_path,
        MINIS["mini-blip"],
        model,
        saved["run"],
        saved["scores"],
        [[1, 2.0, 3.0], [2, 1.0, 4.0]],
    )
    write_card(*arguments)
    assert "other seeds" not in (tmp_path / "README.md").read_text()
    (tmp_path / "seed1.json").write_text(json.dumps({"scores": other}))
    write_card(*arguments)
    card = (tmp_path / "README.md").read_text()
    assert "| prompt | seed 0 | seed 1 |" in card and "at most 0.031" in card
    assert (
        f"| count | {100 * saved['scores']['exact_count']:.1f} % | {100 * other['exact_count']:.1f} % |"
        in card
    )
    assert (tmp_path / "training_log.csv").read_text().split() == [
        "step,loss,seconds",
        "1,2.0,3.0",
        "2,1.0,4.0",
    ]
    assert json.loads((tmp_path / "scores.json").read_text()) == saved


@pytest.mark.parametrize("mini", MINIS.values(), ids=MINIS)
def test_the_shipped_card_is_what_its_scores_say(mini, tmp_path):
    shipped = mini.checkpoint
    if not (shipped / "scores.json").exists():
        pytest.skip("not pre-trained yet")
    assert sum(file.stat().st_size for file in shipped.iterdir()) <= 8e6
    saved = json.loads((shipped / "scores.json").read_text())
    for file in shipped.glob("seed*.json"):
        (tmp_path / file.name).write_text(file.read_text())
    model = load_family(mini.name).model
    write_card(tmp_path, mini, model, saved["run"], saved["scores"], [[1, 2.0, 3.0]])
    assert (tmp_path / "README.md").read_text() == (shipped / "README.md").read_text()
    assert saved["run"]["recipe"] == mini.recipe.describe() and saved["run"]["steps"] == mini.recipe.steps
