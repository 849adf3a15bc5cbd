"""What an attention graph holds: shapes, masks, degrees."""

import copy
import pickle
from dataclasses import replace

import networkx
import pytest
import torch

from attngraph import AttentionGraph, PastDegree

B, H, N, M, D = 2, 3, 4, 5, 6


def parts(dtype=torch.float32, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return (
        torch.randn(B, H, N, D, generator=draw, dtype=dtype),
        torch.randn(B, H, M, D, generator=draw, dtype=dtype),
        torch.randn(B, H, N, M, generator=draw, dtype=dtype).softmax(-1),
    )


def yes(*shape):
    return torch.ones(*shape, dtype=torch.bool)


PAST = {
    name: torch.zeros(shape)
    for name, shape in (("total", (B, H, M)), ("queries", (B,)), ("short", (B, H, N)))
}
SPAN = torch.zeros(B, N, 2, dtype=torch.long)
BAD = [
    (dict(query=torch.zeros(B, N, D)), r"query must have shape \(batch, heads, .*, got \(2, 4, 6\)"),
    (dict(value=torch.zeros(B, H + 1, M, D)), "value must have shape"),
    (dict(weight=torch.full((B, H, N, M), -0.25)), "weight must not be negative, got -0.25"),
    (dict(weight=torch.ones(B, H, N, M, dtype=torch.long)), "weight must hold .* numbers, got torch.int64"),
    (dict(weight=torch.zeros(B, H, M, N)), r"weight must have shape \(2, 3, 4, 5\), got \(2, 3, 5, 4\)"),
    (dict(query_mask=yes(B, M)), r"query_mask must have shape \(2, 4\), got \(2, 5\)"),
    (dict(query_mask=torch.ones(B, N)), "query_mask must be a bool tensor .* got torch.float32"),
    (dict(value_mask=yes(B, N)), r"value_mask must have shape \(2, 5\) or \(2, 4, 5\), got \(2, 4\)"),
    (dict(metric=torch.zeros(H, D, D + 1)), r"metric must have shape \(3, 6, 6\), got \(3, 6, 7\)"),
    (dict(kind="both"), "kind must be one of self, cross or None, got 'both'"),
    (dict(query_modality="sound"), "must be one of text, image, a bool tensor or None, got 'sound'"),
    (dict(value_modality=yes(B, N)), r"value_modality must be a bool tensor of shape \(2, 5\) .* \(2, 4\)"),
    (dict(past_degree=PastDegree(PAST["total"], PAST["queries"])), "past_degree belongs to causal graphs"),
    (
        dict(causal=True, past_degree=PastDegree(PAST["short"], PAST["queries"])),
        "past_degree.total must have",
    ),
    (
        dict(causal=True, past_degree=PastDegree(PAST["total"], PAST["total"])),
        "past_degree.queries must have",
    ),
    (dict(span=SPAN), "span belongs to causal graphs"),
    (dict(causal=True, span=SPAN.float()), "span must hold integers"),
    (dict(causal=True, span=SPAN[..., 0]), r"span must have shape \(2, 4, 2\)"),
    *(  # before the last query, too late, too early, after one
        (dict(causal=True, span=SPAN + torch.tensor(stretch)), "span must hold the first .* and the last")
        for stretch in ([0, 2], [0, 4], [-2, 3], [1, 3])
    ),
]


def test_errors_name_the_argument():
    query, value, weight = parts()
    for wrong, message in BAD:
        with pytest.raises(ValueError, match=message):
            AttentionGraph(**(dict(query=query, value=value, weight=weight) | wrong))
    with pytest.raises(ValueError, match="degree must be one of sum, mean, got 'max'"):
        AttentionGraph(query, value, weight).value_degree("max")


def everything(dtype=torch.float64):
    """A graph with all that a graph can have, different in each example and head."""
    query, value, weight = parts(dtype)
    draw = torch.Generator().manual_seed(1)
    query_mask, value_mask = yes(B, N), yes(B, N, M)
    query_mask[1, 3] = value_mask[0, 2, 1] = False
    return AttentionGraph(
        query,
        value,
        weight,
        query_mask,
        value_mask,
        causal=True,
        metric=torch.randn(H, D, D, generator=draw).to(dtype),
        past_degree=PastDegree(torch.rand(B, H, M, generator=draw).to(dtype), torch.tensor([2, 7])),
        kind="self",
        query_modality="text",
        value_modality="image",
        rotated=True,
        span=torch.tensor([[[-1, 1], [-1, 1], [2, 2], [2, 3]], [[0, 0], [0, 1], [-1, 2], [-1, 3]]]),
    )


def test_some_examples_and_heads():
    """Every part is cut along the dimensions that it has."""
    graph = replace(everything(), query_modality=torch.arange(N).expand(B, N) > torch.tensor([[0], [2]]))
    flags = torch.tensor([True, False, True])
    for index, examples, heads in (
        (1, [1], [0, 1, 2]),
        ((-1, 2), [1], [2]),
        ((slice(None), [2, 0]), [0, 1], [2, 0]),
        (([1, 0], slice(1, None)), [1, 0], [1, 2]),
        ((0, flags), [0], [0, 2]),
    ):
        some = graph[index]
        assert some.shape[:2] == (len(examples), len(heads)) and some.metric.shape == (len(heads), D, D)
        for b, example in enumerate(examples):
            assert torch.equal(some.span[b], graph.span[example])
            assert torch.equal(some.query_modality[b], graph.query_modality[example])
            for h, head in enumerate(heads):
                assert torch.equal(some.query[b, h], graph.query[example, head])
                assert torch.equal(some.value[b, h], graph.value[example, head])
                assert torch.equal(some.metric[h], graph.metric[head])
                for degree in ("sum", "mean"):  # of masks, span and past degrees
                    got, want = some.value_degree(degree), graph.value_degree(degree)
                    assert torch.equal(got[b, h], want[example, head])
    assert [one.past_degree.queries.item() for one in graph] == [2, 7]  # an example after the other
    compact = graph.compact()[0]
    assert "compact" in repr(compact) and torch.equal(compact.weight, graph.weight[:1])
    for wrong, message in (
        (2, "examples 0 to 1, got 2"),
        ([[0]], "examples 0 to 1, got"),
        ((0, [0, 3]), "heads 0 to 2"),
        ((0, 0, 0), "got 3"),
    ):
        with pytest.raises(IndexError, match=message):
            graph[wrong]


def test_to_another_dtype_and_device():
    """Numbers that are no features keep their type: a mask, a span, places of compact weights."""
    graph = everything()
    for whole in (graph, graph.compact()):
        single = whole.to(torch.float32)
        torch.testing.assert_close(single.value_degree("mean"), graph.value_degree("mean").float())
        assert {single.query.dtype, single.metric.dtype, single.past_degree.total.dtype} == {torch.float32}
        assert torch.equal(single.span, graph.span) and torch.equal(single.visible, graph.visible)
        there = whole.to("meta")
        assert {x.device.type for x in (there.value, there.value_mask, *there.past_degree)} == {"meta"}
    assert graph.cpu().value_degree().equal(graph.value_degree())


def test_detached():
    graph = everything()
    learned = {name: getattr(graph, name).clone().requires_grad_() for name in ("query", "weight", "metric")}
    past = graph.past_degree._replace(total=graph.past_degree.total.requires_grad_())
    cut = replace(graph, **learned, past_degree=past).detach()
    assert not any(x.requires_grad for x in (cut.query, cut.metric, cut.weight, cut.past_degree.total))
    assert torch.equal(cut.value_degree(), graph.value_degree())


def test_repr_and_modality():
    mixed = torch.arange(M).expand(B, M) > 2
    graph = AttentionGraph(*parts(), kind="cross", query_modality="text", value_modality=mixed)
    end = "values=5, features=6, bidirectional, cross, text to mixed)"
    assert repr(graph) == f"AttentionGraph(batch=2, heads=3, queries=4, {end}"
    queries, values = graph.is_image()
    assert torch.equal(queries, ~yes(B, N)) and torch.equal(values, mixed)
    image = AttentionGraph(*parts(), causal=True, query_modality="image")
    assert image.is_image()[0].all() and repr(image).endswith("causal, image to unknown)")
    assert repr(AttentionGraph(*parts())).endswith("features=6, bidirectional)")
    full = everything(torch.bfloat16)
    assert "causal in blocks, self, text to image, rotated queries" in repr(full)
    assert repr(full).endswith(", masked, metric, past degrees, torch.bfloat16)")
    for other in (graph.sparsify(top_k=1), graph.compact(), pickle.loads(pickle.dumps(graph))):
        assert other.kind == "cross" and other.query_modality == "text"
        assert torch.equal(other.value_modality, mixed)


def test_packed_graphs_are_the_same_graphs():
    """Only the edges are in memory; whatever reads the weights gets them."""
    query, value, weight = parts()
    graph = AttentionGraph(
        query, value, weight, value_mask=torch.arange(M).expand(B, M) < 4, causal=True
    ).sparsify(top_k=1)
    compact = graph.compact()
    assert (
        vars(compact)["_weight"].values.shape == (B * H * N,)
        and vars(compact)["_weight"].index.dtype == torch.int32
    )
    for other in (compact, pickle.loads(pickle.dumps(compact)), copy.deepcopy(compact), compact.compact()):
        assert torch.equal(other.weight, graph.weight) and repr(other) == f"{repr(graph)[:-1]}, compact)"
        assert torch.equal(other.value_degree("mean"), graph.value_degree("mean"))
    assert torch.equal(replace(compact, causal=False).weight, graph.weight)
    assert torch.equal(graph.to_data().edge_index, compact.to_data().edge_index)
    with pytest.raises(TypeError, match="weight"):
        AttentionGraph(query, value)
    half = AttentionGraph(*parts(torch.bfloat16)).compact()
    assert half.weight.dtype == torch.bfloat16


def test_masked_edges_weigh_exactly_zero():
    query_mask, value_mask = yes(B, N), yes(B, M)
    query_mask[0, 1] = value_mask[1, 4] = False
    weight = parts()[2]
    for mask in (value_mask, value_mask[:, None].expand(B, N, M)):
        graph = AttentionGraph(*parts(), query_mask=query_mask, value_mask=mask)
        assert (graph.weight[0, :, 1] == 0).all() and (graph.weight[1, :, :, 4] == 0).all()
        keep = (query_mask[:, :, None] & value_mask[:, None])[:, None].expand_as(weight)
        assert torch.equal(graph.weight[keep], weight[keep])
    assert torch.equal(AttentionGraph(*parts()).weight, weight)


def test_no_gradient_passes_a_mask():
    query, value, weight = parts()
    weight.requires_grad_()
    assert AttentionGraph(query, value, weight).weight is weight
    mask = yes(B, M)
    mask[:, 2] = False
    AttentionGraph(query, value, weight, value_mask=mask).weight.sum().backward()
    assert (weight.grad[..., 2] == 0).all() and (weight.grad[..., :2] == 1).all()


def test_degrees_are_the_sums_over_the_masked_weights():
    query_mask = yes(B, N)
    query_mask[0, 0] = query_mask[1, 3] = False
    for causal in (False, True):
        graph = AttentionGraph(*parts(torch.float64), query_mask=query_mask, causal=causal)
        torch.testing.assert_close(graph.query_degree()[..., 0], graph.weight.sum(-1))
        degree, mean = graph.value_degree(), graph.value_degree("mean")
        for b in range(B):
            for i in range(N):
                seen = [k for k in range(i + 1 if causal else N) if query_mask[b, k]]
                want = sum((graph.weight[b, :, k] for k in seen), torch.zeros(H, M, dtype=torch.float64))
                torch.testing.assert_close(degree[b, :, i if causal else 0], want)
                if query_mask[b, i]:
                    torch.testing.assert_close(mean[b, :, i if causal else 0], want * M / len(seen))


def test_the_mean_degree_counts_the_values_that_a_query_sees():
    """Uniform attention with a window of its own per query."""
    sees = (
        torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
        .bool()
        .expand(B, N, M)
    )
    weight = (sees / sees.sum(-1, keepdim=True))[:, None].expand(B, H, N, M)
    graph = AttentionGraph(*parts()[:2], weight, value_mask=sees, causal=True)
    want = torch.tensor([1 / 2, (1 / 2 + 1 / 3), (1 / 2 + 1 / 3 + 1 / 4), (1 / 2 + 1 / 3 + 1 / 4 + 1 / 5)])
    want = want * torch.tensor([2, 3, 4, 5]) / torch.tensor([1, 2, 3, 4])
    torch.testing.assert_close(graph.value_degree("mean")[0, 0, :, 0], want)


def test_a_span_says_which_queries_count():
    """Here queries 0 and 1 see each other, and 2 begins a text of its own that 3 belongs to."""
    span = torch.tensor([[0, 1], [0, 1], [2, 2], [2, 3]]).expand(B, N, 2)
    query, value, weight = parts(torch.float64)
    graph = AttentionGraph(query, value, weight, causal=True, span=span)
    assert "causal in blocks" in repr(graph)
    seen = [weight[:, :, :2].sum(2), weight[:, :, :2].sum(2), weight[:, :, 2], weight[:, :, 2:].sum(2)]
    counted = torch.tensor([2, 2, 1, 2])
    torch.testing.assert_close(graph.queries_counted(), counted.expand(B, N))
    degree, mean = graph.value_degree(), graph.value_degree("mean")
    for i, want in enumerate(seen):
        torch.testing.assert_close(degree[:, :, i], want)
        torch.testing.assert_close(mean[:, :, i], want * M / counted[i])
    after = graph.degree_after()
    torch.testing.assert_close(after.total, seen[-1])
    assert after.queries.tolist() == [2] * B


def test_past_degrees_count_for_the_queries_that_go_on_from_them():
    query, value, weight = parts(torch.float64)
    past = PastDegree(torch.rand(B, H, M, dtype=torch.float64), torch.full((B,), 7))
    span = torch.tensor([[-1, 0], [-1, 1], [2, 2], [2, 3]]).expand(B, N, 2)
    graph = AttentionGraph(query, value, weight, causal=True, span=span, past_degree=past)
    degree = graph.value_degree()
    torch.testing.assert_close(degree[:, :, 1], weight[:, :, :2].sum(2) + past.total)
    torch.testing.assert_close(degree[:, :, 3], weight[:, :, 2:].sum(2))
    assert graph.queries_counted().tolist() == [[8, 9, 1, 2]] * B


def test_half_precision_degrees_are_summed_in_single():
    n = 3000
    weight = torch.full((1, 1, n, 1), 1.0, dtype=torch.bfloat16)
    graph = AttentionGraph(torch.zeros(1, 1, n, 1), torch.zeros(1, 1, 1, 1), weight, causal=True)
    assert graph.value_degree().dtype == torch.float32
    assert torch.equal(graph.value_degree()[0, 0, :, 0], torch.arange(1.0, n + 1))


@pytest.mark.parametrize("degree", ["sum", "mean"])
def test_past_degree_continues_the_sums(degree):
    query, value, weight = parts(torch.float64)
    query_mask = yes(B, N)
    query_mask[0, 0] = False
    whole = AttentionGraph(query, value, weight, query_mask, causal=True)
    first = AttentionGraph(query[:, :, :2], value, weight[:, :, :2], query_mask[:, :2], causal=True)
    second = AttentionGraph(
        query[:, :, 2:],
        value,
        weight[:, :, 2:],
        query_mask[:, 2:],
        causal=True,
        past_degree=first.degree_after(),
    )
    torch.testing.assert_close(
        torch.cat([first.value_degree(degree), second.value_degree(degree)], 2), whole.value_degree(degree)
    )
    for got, want in zip(second.degree_after(), whole.degree_after()):
        torch.testing.assert_close(got, want)


def test_networkx_degrees_are_ours():
    query_mask = yes(B, N)
    query_mask[1, 2] = False
    graph = AttentionGraph(*parts(torch.float64), query_mask=query_mask)
    for b in range(B):
        for h in range(H):
            degree = dict(graph[b, h].to_networkx().degree(weight="weight"))
            for i in range(N):
                assert degree["query", i] == pytest.approx(float(graph.query_degree()[b, h, i, 0]))
            for j in range(M):
                assert degree["value", j] == pytest.approx(float(graph.value_degree()[b, h, 0, j]))
    assert networkx.is_bipartite(graph[0, 0].to_networkx())


def test_padded_queries_do_not_widen_what_is_visible():
    """Values that only a padded query sees do not count as visible."""
    sees = yes(B, N, M)
    sees[:, :3, 4] = False  # only the last query sees value 4, and it is padding
    query_mask = yes(B, N)
    query_mask[:, 3] = False
    graph = AttentionGraph(*parts(), query_mask=query_mask, value_mask=sees)
    torch.testing.assert_close(graph.value_degree("mean"), graph.value_degree() * 4 / 3)
