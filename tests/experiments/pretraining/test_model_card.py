"""The card of a checkpoint."""

import json

from experiments.models.mini_blip import CHECKPOINT, load_model
from experiments.pretraining.minis import MINIS
from experiments.pretraining.model_card import write_card


def test_runs_with_other_seeds_are_columns_of_the_card(tmp_path):
    model, _ = load_model()
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


def test_the_shipped_card_is_what_its_scores_say(tmp_path):
    model, _ = load_model()
    saved = json.loads((CHECKPOINT / "scores.json").read_text())
    (tmp_path / "seed1.json").write_text((CHECKPOINT / "seed1.json").read_text())
    write_card(tmp_path, MINIS["mini-blip"], model, saved["run"], saved["scores"], [[1, 2.0, 3.0]])
    assert (tmp_path / "README.md").read_text() == (CHECKPOINT / "README.md").read_text()
