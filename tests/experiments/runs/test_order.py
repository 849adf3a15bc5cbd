"""The order of examples is a function of seed and step."""

import torch

from experiments.runs.order import StepSampler, batch_positions


def test_every_epoch_sees_every_example_once_in_a_new_order():
    epochs = [
        torch.cat([batch_positions(12, 4, 7, 3 * epoch + k)[0] for k in range(3)]) for epoch in range(2)
    ]
    assert all(sorted(epoch.tolist()) == list(range(12)) for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()
    assert batch_positions(12, 4, 7, 1)[0].tolist() == batch_positions(12, 4, 7, 1)[0].tolist()
    assert batch_positions(12, 4, 8, 1)[0].tolist() != batch_positions(12, 4, 7, 1)[0].tolist()


def test_draws_depend_on_seed_and_step_alone():
    draws = batch_positions(12, 4, 7, 1)[1]
    assert torch.equal(draws, batch_positions(50, 4, 7, 1)[1])
    assert not torch.equal(draws, batch_positions(12, 4, 7, 2)[1])
    assert not torch.equal(draws, batch_positions(12, 4, 8, 1)[1])
    assert len(set(draws.tolist())) == 4 and draws.min() >= 0 and draws.max() < 1


def test_what_does_not_fill_a_batch_is_left_out_of_an_epoch():
    seen = torch.cat([batch_positions(11, 4, 0, k)[0] for k in range(2)])
    assert len(set(seen.tolist())) == 8
    third = batch_positions(11, 4, 0, 2)[0]
    assert set(third.tolist()) & set(seen.tolist()), "a new epoch"


def test_a_batch_is_at_most_all_examples():
    positions, draws = batch_positions(3, 64, 0, 5)
    assert sorted(positions.tolist()) == [0, 1, 2] and len(draws) == 3


def test_the_sampler_lists_the_batches_of_all_steps():
    sampler = StepSampler(11, 4, 3, 7)
    places = list(sampler)
    assert len(places) == len(sampler) == 28 and places == list(sampler)
    for step in range(7):
        positions, draws = batch_positions(11, 4, 3, step)
        found = [place[:2] for place in places[4 * step : 4 * step + 4]]
        assert found == list(zip(positions.tolist(), draws.tolist()))
    assert len(StepSampler(3, 64, 0, 2)) == len(list(StepSampler(3, 64, 0, 2))) == 6
