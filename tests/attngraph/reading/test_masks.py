"""What masks say, and what else decides whether queries are ordered in time."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import masking_utils

from attngraph.reading.masks import Order, read_mask
from attngraph.reading.state import LayerState


def test_a_modules_word_counts_only_where_its_mask_does_not_say():
    """Eager attention hides what the mask hides; without one it hides nothing."""
    cache = object()

    def is_ordered(call, module, masked, order, queries, cache, generates=False, decodes=False):
        return Order(call, module, masked, order, queries, cache is not None, generates, decodes).causal

    for told, module in ((True, None), (None, True), (None, None), (None, False), (False, True)):
        word = module if told is None else told
        for order in ("causal", "blocks"):
            assert is_ordered(told, module, True, order, 5, None)
        # all see each other: an encoder's input, or a decoder's first block
        assert is_ordered(told, module, True, "none", 5, None) == bool(told)
        assert is_ordered(told, module, True, "none", 5, None, generates=True) == bool(told or module)
        assert is_ordered(told, module, True, "none", 5, cache) == bool(word)
        ordered = is_ordered(told, module, True, "none", 5, cache, decodes=True)
        assert ordered == (word is not False)
        ordered = is_ordered(told, module, True, "none", 5, cache, generates=True)
        assert ordered == (word is not False or bool(module))
        assert not is_ordered(told, module, False, None, 5, None) and not is_ordered(
            told, module, False, None, 5, cache
        )
        assert not is_ordered(told, module, False, None, 1, None)
        assert is_ordered(told, module, False, None, 1, cache) == (word is not False)
        assert is_ordered(told, module, True, None, 1, cache) == (word is not False)
        assert is_ordered(told, module, True, None, 1, None) == bool(word)
        # a module's False is a default in decoders too, a call's is not
        assert is_ordered(told, module, True, None, 1, cache, generates=True) == (told is not False)
        assert is_ordered(told, module, True, None, 1, None, decodes=True) == (word is not False)


class Inner(nn.Module):
    """A model that makes masks of either kind, as it is configured."""

    def forward(self):
        masking_utils.create_causal_mask(), masking_utils.create_bidirectional_mask()


def test_a_model_that_makes_masks_of_both_kinds_orders_queries_unless_it_says_no():
    for config, decodes in (
        (None, True),
        (SimpleNamespace(), True),
        (SimpleNamespace(is_decoder=False), False),
    ):
        model = Inner()
        model.config = config
        assert LayerState(site=None, changes=None, inner_model=model).decodes == decodes


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
    assert read_mask(alibi, (1, 2, 3, 3)).visible.all() and not read_mask(alibi, (1, 2, 3, 3)).only_hides
    assert not read_mask(alibi[:, :1], (1, 2, 3, 3)).only_hides
    padded = torch.zeros(2, 1, 3, 3)
    padded[1, :, :, 2] = low
    read = read_mask(padded, (2, 4, 3, 3))
    assert read.queries.untyped_storage().nbytes() == read.queries.nbytes  # it outlives the mask
    assert read.only_hides
    assert torch.equal(read.queries, torch.tensor([[True] * 3, [True, True, False]])) and read.order == "none"
    cached = torch.zeros(1, 1, 1, 5)
    assert read_mask(cached, (1, 1, 1, 5)).order is None and read_mask(None, (1, 1, 2, 2)) == (
        None,
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
    assert read_mask(blind, (1, 1, 2, 3)).every_query_sees
    blind[..., 0, :] = low
    assert not read_mask(blind, (1, 1, 2, 3)).every_query_sees


def seen(*rows: str) -> torch.Tensor:
    """A mask from a row of 0 and 1 for each query."""
    return torch.tensor([[character == "1" for character in row] for row in rows])


@pytest.mark.parametrize(
    "rows, order, span",
    [
        (["100", "110", "111"], "causal", None),
        (["111", "111", "111"], "none", [[0, 2], [0, 2], [0, 2]]),
        (["110", "110", "111"], "blocks", [[0, 1], [0, 1], [0, 2]]),  # a prefix, then words
        (["1000", "1110", "1110", "1111"], "blocks", [[0, 0], [0, 2], [0, 2], [0, 3]]),  # image in a text
        (["1100", "1100", "1111", "1111"], "blocks", [[0, 1], [0, 1], [0, 3], [0, 3]]),  # block after block
        (["1000", "1100", "0110", "0011"], "causal", None),  # a sliding window
        (["1100", "1110", "0111", "0011"], "none", [[0, 3]] * 4),  # a window to both sides
        (["1000", "1100", "0010", "0011"], "causal", [[0, 0], [0, 1], [2, 2], [2, 3]]),  # packed texts
        (["1100", "1100", "0011", "0011"], "none", [[0, 1], [0, 1], [2, 3], [2, 3]]),  # packed, an encoder
        (["11000", "11000", "00110", "00110", "00111"], "blocks", [[0, 1], [0, 1], [2, 3], [2, 3], [2, 4]]),
        (["10", "01"], "causal", [[0, 0], [1, 1]]),  # each alone
        (["0000", "0100", "0110", "0111"], "causal", None),  # padding first
        (["0000", "0110", "0110", "0111"], "blocks", [[0, 0], [1, 2], [1, 2], [1, 3]]),
        (["1100", "1100", "1110", "1110"], "blocks", [[0, 1], [0, 1], [0, 2], [0, 3]]),  # padding last
        (["110", "011", "111"], "unclear", None),
        (["11", "01"], "unclear", None),
        (["000", "100", "110"], "causal", None),  # no query sees itself
        (["011", "101", "110"], "none", [[0, 2]] * 3),
        # with a cache: the first values are earlier queries'
        (["11100", "11110", "11111"], "causal", None),
        (["11111", "11111", "11111"], "none", [[-1, 2]] * 3),
        (["11110", "11110", "11111"], "blocks", [[-1, 1], [-1, 1], [-1, 2]]),
        (["00100", "00110", "00111"], "causal", [[0, 0], [0, 1], [0, 2]]),  # a new text
        # padding last, and then a cached step: it goes on from the text before the padding
        (["10100", "10110", "10110"], "causal", None),
        (["01100", "01110", "00001"], "causal", [[-1, 0], [-1, 1], [2, 2]]),
    ],
    ids=str,
)
def test_order_and_span_are_read_from_the_mask(rows, order, span):
    mask = seen(*rows)
    n, m = mask.shape
    read = read_mask(mask, (1, 2, n, m))
    assert read.order == order
    if order != "unclear":
        assert (None if read.span is None else read.span.tolist()) == (None if span is None else [span])


@pytest.mark.parametrize(
    "rows, valid",
    [
        (["011", "101", "110"], [True, True, True]),
        (["000", "100", "110"], [False, True, True]),  # the last is seen by no query
        (["1000", "1000", "1100", "1110"], [True] * 4),  # the first sees itself, as nothing else
        (["111", "101", "111"], [True, True, True]),  # one does not see itself
        (["0110", "1010", "1100", "0000"], [True, True, True, False]),  # padding last
        (["1110", "1110", "1110", "1110"], [True, True, True, False]),
        (["0000", "1110", "1110", "1110"], [False, True, True, False]),  # the first sees nothing
        (["1000", "1100", "1110", "1110"], [True, True, True, False]),
    ],
    ids=str,
)
def test_padding_is_what_no_query_sees(rows, valid):
    """A query that a mask hides from itself alone was taken for padding, and its weights became 0."""
    n = len(rows)
    assert read_mask(seen(*rows), (1, 2, n, n)).queries.tolist() == [valid]


def test_a_span_reads_as_it_would_alone_in_a_batch():
    masks = [seen("110", "110", "111"), seen("100", "110", "111"), seen("000", "010", "011")]
    together = read_mask(torch.stack(masks)[:, None], (3, 1, 3, 3))
    assert together.order == "blocks"
    assert together.span.tolist() == [
        [[0, 1], [0, 1], [0, 2]],
        [[0, 0], [0, 1], [0, 2]],
        [[0, 0], [1, 1], [1, 2]],
    ]


def test_long_windows_reach_back_to_the_first_query():
    """A query's text begins with what the first query that it sees belongs to, however many steps back."""
    n = 301
    query, value = torch.arange(n)[:, None], torch.arange(n)
    window = (value <= query) & (value > query - 3)
    assert read_mask(window, (1, 1, n, n)).span is None
    second = value >= 100 * (query // 100)
    span = read_mask(window & second, (1, 1, n, n)).span
    assert torch.equal(span[0, :, 0], 100 * (torch.arange(n) // 100))


def test_a_single_query_that_sees_nothing_before_itself_begins_a_text():
    """As where packed texts are decoded token by token: its degrees leave out those of the text before it."""
    for sees, span in (("0001", [[0, 0]]), ("0101", None), ("1111", None), ("0110", None)):
        row = torch.tensor([[[[x == "1" for x in sees]]]])
        got = read_mask(row, (1, 2, 1, 4))
        assert got.order is None and (got.span is None if span is None else got.span[0].tolist() == span)
    both = torch.cat(
        [torch.tensor([[[[False, False, False, True]]]]), torch.tensor([[[[True, True, True, True]]]])]
    )
    assert read_mask(both, (2, 2, 1, 4)).span.tolist() == [[[0, 0]], [[-1, 0]]]
