"""How one method's settings are chosen on one task."""

import math

from experiments.methods.settings import Choice
from experiments.tables.race import Race


def run_race(race, score) -> dict:
    scores = {}
    while todo := race.next(scores):
        scores.update({trial.key: score(trial) for trial in todo})
    return scores


def test_a_race_without_room_for_seeds_goes_on_with_its_winner_until_it_lies_inside():
    race = Race("gcn", "vqa", [Choice(learning_rate=rate) for rate in (1e-3, 3e-3, 1e-2)], 4, 2, 9)
    scores = run_race(race, lambda trial: -abs(math.log10(trial.choice.learning_rate) + 1))
    assert [trial.choice.learning_rate for trial in race.tried] == [1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1]
    assert race.best(scores)[0].learning_rate == 1e-1 and race.beyond(race.best(scores)[0]) is None


def test_the_rate_beyond_a_winner_runs_with_the_winners_seeds():
    """Seed 1 makes the largest rate the best of the finalists, when the trials are spent."""
    race = Race("gcn", "vqa", [Choice(learning_rate=rate) for rate in (1e-3, 3e-3, 1e-2)], 7, 2, 9)
    better = {(1e-2, 1): 0.9, (3e-3, 0): 0.5, (1e-2, 0): 0.4}
    scores = run_race(race, lambda trial: better.get((trial.choice.learning_rate, trial.seed), 0.1))
    last = [(trial.choice.learning_rate, trial.seed) for trial in race.tried[-3:]]
    assert last == [(3e-2, 0), (3e-2, 1), (3e-2, 2)]
    assert race.best(scores)[0].learning_rate == 1e-2 and race.beyond(race.best(scores)[0]) is None


def test_a_race_in_which_everything_diverges_ends():
    race = Race("gcn", "vqa", [Choice(learning_rate=rate) for rate in (1e-3, 3e-3)], 9, 2, 9)
    run_race(race, lambda trial: -math.inf)
    assert len(race.tried) <= 9
