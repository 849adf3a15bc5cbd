"""Which examples look at the same picture is known to their scores, as long as their values are the same."""

from functools import partial

import torch

from attngraph.reading.instrument import instrument
from attngraph.reading.pictures import first_of_picture, project_once, states_of_examples

PICTURE = torch.tensor([0, 1, 0, 1])
OTHER = torch.tensor([0.0, 0.0, 1.0, 0.0])[:, None, None]  # what the third example gets


def scores_of(model, ids, states):
    """Of the first cross-attention."""
    handle, found = instrument(model), []
    site = handle.sites["bert.encoder.layer.0.crossattention.self"]
    site.listeners.append(lambda call: found.append(call.scores()))
    with torch.no_grad():
        model(input_ids=ids, encoder_hidden_states=states, use_cache=False)
    handle.remove()
    return found[0]


def test_scores_know_it_unless_something_tells_the_examples_apart(make_decoder, words, image_states):
    """As another adapter for some of the examples would, below which the projection runs."""
    model, ids, distinct = make_decoder(), words(4), image_states()
    attention = model.bert.encoder.layer[0].crossattention.self
    for projection in 2 * (attention.key, attention.value):  # two families may hold one model
        project_once(projection)
    look = partial(scores_of, model, ids)
    plain, shared = look(distinct[PICTURE]), look(states_of_examples(distinct, PICTURE))
    assert plain.picture is None and shared.picture.tolist() == [0, 1, 0, 1]
    torch.testing.assert_close(shared.value, plain.value)
    torch.testing.assert_close(shared.key, plain.key)
    assert look(states_of_examples(distinct, PICTURE)[:, :4]).picture is None, "other states in that memory"
    for projection in (attention.key, attention.value):
        hook = projection.register_forward_hook(lambda _, __, output: output + OTHER)
        assert look(states_of_examples(distinct, PICTURE)).picture is None
        hook.remove()


def test_states_that_were_changed_are_others():
    """Detached from their pictures', made a leaf, or changed in place."""
    distinct = torch.randn(2, 3, 4, requires_grad=True)
    states = states_of_examples(distinct, torch.tensor([0, 1, 0]))
    assert first_of_picture(states).tolist() == [0, 1, 0]
    assert first_of_picture(states.detach()) is None
    assert first_of_picture(states.detach().requires_grad_()) is None
    frozen = states_of_examples(distinct.detach(), torch.tensor([0, 1, 0]))
    assert first_of_picture(frozen.detach()).tolist() == [0, 1, 0]
    projection = torch.nn.Linear(4, 4)
    project_once(projection)
    leaf = frozen.detach().requires_grad_()
    projection(leaf).sum().backward()
    assert leaf.grad is not None and projection(frozen).shape == (3, 3, 4)
    frozen.mul_(2)
    assert first_of_picture(frozen) is None
    torch.testing.assert_close(projection(frozen), projection(frozen.clone()))
