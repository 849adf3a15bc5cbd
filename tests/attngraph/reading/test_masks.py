"""What masks say, and what else decides whether queries are ordered in time."""

import torch

from attngraph.reading.masks import Order, read_mask


def test_a_modules_word_counts_only_where_its_mask_does_not_say():
    """Eager attention hides what the mask hides; without one it hides nothing."""
    cache = object()

    def is_ordered(call, module, masked, order, queries, cache):
        return Order(call, module, masked, order, queries, cache is not None).causal

    for told, module in ((True, None), (None, True), (None, None), (None, False), (False, True)):
        word = module if told is None else told
        for order in ("causal", "none"):
            assert is_ordered(told, module, True, order, 5, None) == (order == "causal")
        assert is_ordered(told, module, True, "mixed", 5, None) == bool(word)
        assert not is_ordered(told, module, False, None, 5, None) and not is_ordered(
            told, module, False, None, 5, cache
        )
        assert not is_ordered(told, module, False, None, 1, None)
        assert is_ordered(told, module, False, None, 1, cache) == (word is not False)
        assert is_ordered(told, module, True, None, 1, cache) == (word is not False)
        assert is_ordered(told, module, True, None, 1, None) == bool(word)


def test_reading_masks():
    low = torch.finfo(torch.float32).min
    lower = torch.ones(3, 3, dtype=torch.bool).tril()
    for hidden in (low, float("-inf"), -1e9, -1e4):
        read = read_mask(torch.zeros(3, 3).masked_fill(~lower, hidden)[None, None], (2, 4, 3, 3))
        assert (
            torch.equal(read.visible, lower.expand(2, 3, 3)) and read.queries.all() and read.order == "causal"
        )
    assert read_mask(lower, (2, 4, 3, 3)).order == "causal"  # bool, without batch
    half = torch.zeros(1, 1, 3, 3, dtype=torch.float16).masked_fill(~lower, torch.finfo(torch.float16).min)
    assert torch.equal(read_mask(half, (1, 1, 3, 3)).visible[0], lower)
    assert read_mask(torch.zeros(1, 1, 1, 3), (2, 4, 3, 3)).order == "none"
    alibi = -torch.arange(3.0).expand(1, 2, 3, 3) * 100  # a bias hides nothing
    assert read_mask(alibi, (1, 2, 3, 3)).visible.all() and not read_mask(alibi, (1, 2, 3, 3)).pure
    assert not read_mask(alibi[:, :1], (1, 2, 3, 3)).pure
    padded = torch.zeros(2, 1, 3, 3)
    padded[1, :, :, 2] = low
    read = read_mask(padded, (2, 4, 3, 3))
    assert read.pure
    assert torch.equal(read.queries, torch.tensor([[True] * 3, [True, True, False]])) and read.order == "none"
    mixed = torch.zeros(3, 3).masked_fill(torch.tensor([[0, 0, 1], [0, 0, 0], [0, 0, 0]]).bool(), low)
    assert read_mask(mixed, (1, 1, 3, 3)).order == "mixed"
    cached = torch.zeros(1, 1, 1, 5)
    assert read_mask(cached, (1, 1, 1, 5)).order is None and read_mask(None, (1, 1, 2, 2)) == (
        None,
        None,
        None,
        True,
        True,
        True,
    )
    either = torch.zeros(1, 2, 1, 2).masked_fill(torch.tensor([[[True, False]], [[True, True]]])[None], low)
    assert read_mask(either, (1, 2, 1, 2)).visible.tolist() == [[[False, True]]]
    blind = torch.zeros(1, 1, 2, 3)
    assert read_mask(blind, (1, 1, 2, 3)).sees
    blind[..., 0, :] = low
    assert not read_mask(blind, (1, 1, 2, 3)).sees
