"""What the user sees of cells that run: steps counted once, a line for each cell."""

from pathlib import Path

from attngraph.errors import UserError
from experiments.launchers.board import EVAL_STEPS, Board, line, said_of, weight
from experiments.training.cells import Cell
from experiments.training.recipe import Recipe

TRAINED = Cell("a", "gcn", {}, "vqa", 0, Recipe(1e-3, 40), Path("data"))
UNTRAINED = Cell("gcn", "majority", {}, "caption", 0, None, Path("data"))


def test_the_bar_counts_steps_and_scoring():
    assert weight(TRAINED) - weight(UNTRAINED) == 40


def test_the_line_of_a_cell():
    scores = {"scores": {"caption.bleu4": 0.25, "caption.cider": 1.5}}
    assert line(UNTRAINED, said_of(scores, blind=True)) == "      gcn caption   seed 0: finished"
    said = line(UNTRAINED, said_of(scores, blind=False))
    assert said == "      gcn caption   seed 0: bleu4 25.0 cider 150.0"


def test_steps_of_a_cell_that_begins_again_count_once(capfd):
    with Board([TRAINED, UNTRAINED]) as board:
        assert board._bar.total == 40 + 2 * EVAL_STEPS
        board.advance(TRAINED, 10)
        board.advance(TRAINED, 15)
        for steps, seen in ((5, 25), (25, 25), (30, 30), (10_000, 40 + EVAL_STEPS)):
            board.reached(TRAINED, steps)
            assert board._bar.n == seen
        board.finish(TRAINED, {"scores": {"vqa.accuracy": 0.5}})
        assert board._bar.n == 40 + EVAL_STEPS and not board.failures
        error = UserError("broken")
        board.finish(UNTRAINED, error)
        assert board._bar.n == 40 + EVAL_STEPS and board.failures == {UNTRAINED: error}
    said = capfd.readouterr().err
    assert "seed 0: accuracy 50.0" in said and "seed 0: broken" in said
