"""How a model answers: the task's way, that of a type of models, and what the user changed of it."""

from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.cli import main
from experiments.models import Decoding, Ranking, load_family
from experiments.runs.answering import check_room, described, in_words, way_of
from experiments.runs.finished import Finished
from experiments.tasks import TASKS

ANSWER, CAPTION = Decoding(10, 5, 1, "gnmt"), Decoding(25, 5, 8, "gnmt")  # benchmarks of mPLUG's authors


@pytest.fixture
def mplug(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mplug"}')
    return str(tmp_path)


def way(task, model, decoding=None):
    return way_of(TASKS[task], Path("data"), "generate", model, decoding)


@pytest.mark.parametrize(
    "task, expected",
    [
        ("vqa2", ANSWER),
        ("vizwiz_vqa", ANSWER),
        *((name, CAPTION) for name in ("coco", "textcaps", "vizwiz_caps")),
        *((name, TASKS[name].decoding) for name in ("vqa", "ve", "caption", "snli_ve")),
    ],
)
def test_mplug_writes_as_its_authors_let_it(task, expected, mplug):
    assert way(task, mplug) == expected
    assert way(task, None) == way(task, "owner/name") == TASKS[task].decoding, "others as the task says"


def test_what_the_user_changes_goes_before(mplug):
    assert way("coco", mplug, {"num_beams": 3, "max_new_tokens": 40}) == Decoding(40, 3, 8, "gnmt")
    assert way("coco", mplug, {"length_penalty": "length"}) == Decoding(25, 5, 8)
    assert way("vqa2", None, {"length_penalty": "gnmt"}) == Decoding(10, 3, length_penalty="gnmt")
    released = {"as_released": "p_adapter", "num_beams": 3, "max_new_tokens": 50}
    assert way("coco", None, released) == Decoding(50, 3, as_released="p_adapter")
    assert way("coco", mplug, released) == CAPTION, "it is BLIP's, and so are the limits"
    with pytest.raises(UserError, match="at most max_new_tokens"):
        way("coco", mplug, {"max_new_tokens": 5})


@pytest.mark.parametrize("name", ["mini-blip", "mini-mplug"])
def test_more_tokens_than_positions_are_refused_before_training(name, tmp_path, capsys):
    family = load_family(name)
    check_room(Decoding(family.longest), family)
    check_room(Ranking(("yes", "no")), family)
    changes = [f"decoding.max_new_tokens={family.longest + 1}", "recipe.steps=1"]
    words = [word for change in changes for word in ("--set", change)]
    assert main(["train", "scenes-pgnn", "--model", name, *words, "--out", str(tmp_path / "run"), "-q"]) != 0
    told = capsys.readouterr().err
    assert (
        f"max_new_tokens is {family.longest + 1}, and {family.title} has {family.longest} positions" in told
    )
    assert "Traceback" not in told and not list(tmp_path.rglob("states"))


def test_lists_are_ranked_alike(mplug):
    task, ranking = TASKS["vqa2"], Ranking(("yes", "no"))
    assert task.way_of_type(ranking, "mplug") == ranking


def test_a_finished_run_answers_as_it_did(tmp_path):
    for way in (ANSWER, CAPTION, Decoding(10, 3), Decoding(4), Decoding(40, 5, 5, as_released="p_adapter")):
        run = Finished(tmp_path, {"task": "coco"}, {"answering": described(way)})
        assert run.way(tmp_path) == way
    assert described(Decoding(10, 3)) == {"way": "generate", "beams": 3, "tokens": 10}, "as ever"
    assert in_words(described(CAPTION)).startswith("texts generated with 5 beams and length penalty gnmt, at")
