"""Attention of one's own, however it is written: what is read from it by watching it run, and what is not."""

from threading import Barrier, Thread

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from transformers import PretrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert.modeling_bert import eager_attention_forward

from attngraph import UserError, capture, record
from attngraph.reading.instrument import instrument
from tests.attngraph.reading.zoo import far_from_zero, normal

B, N, H, D = 3, 5, 2, 4
LATER = torch.ones(N, N, dtype=torch.bool).triu(1)


class OwnAttention(nn.Module):
    """Queries are scaled; scores are biased, and later words are hidden."""

    def __init__(self, way: str):
        super().__init__()
        self.way, self.num_heads = way, H
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(H * D, H * D) for _ in range(3))
        self.out_proj = nn.Linear(H * D, H * D)
        self.bias = nn.Parameter(torch.zeros(H, N, N))

    def forward(self, hidden_states: Tensor) -> Tensor:
        b, n = hidden_states.shape[:2]
        q, k, v = (x(hidden_states).view(b, n, H, D) for x in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(getattr(self, self.way)(q * D**-0.5, k, v, b, n))

    def four(self, q, k, v, b, n):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        scores = (q @ k.transpose(-1, -2) + self.bias).masked_fill(LATER, float("-inf"))
        return (torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2)

    def three(self, q, k, v, b, n):
        q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
        bias = self.bias.masked_fill(LATER, -1e4).repeat(b, 1, 1)
        scores = torch.baddbmm(input=bias, batch1=q, batch2=k.transpose(1, 2))
        context = torch.bmm(scores.softmax(dim=2), v)
        return context.view(b, H, n, D).transpose(1, 2).reshape(b, n, -1)

    def letters(self, q, k, v, b, n):
        scores = torch.einsum("bjhd, bihd -> bhij", k, q)
        scores = torch.where(LATER, torch.finfo(scores.dtype).min, scores + self.bias)
        return torch.einsum("bjhd,bhij->bihd", v, nn.functional.softmax(scores, dim=3)).flatten(2)

    def turned(self, q, k, v, b, n):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        scores = (k @ q.transpose(-1, -2)).transpose(-1, -2) + self.bias - 1e9 * LATER
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)

    def windows(self, q, k, v, b, n):
        q, k, v = (x.transpose(1, 2)[None] for x in (q, k, v))  # (1, b, h, n, d): examples are windows
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (1, h, b, n, d)
        scores = q @ k.transpose(-1, -2) + self.bias[:, None].masked_fill(LATER, -1e9)
        return (scores.softmax(-1) @ v)[0].permute(1, 2, 0, 3).flatten(2)

    def fused(self, q, k, v, b, n):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        bias = self.bias[None].masked_fill(LATER, -1e9)
        context = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return context.transpose(1, 2).flatten(2)

    def packed(self, q, k, v, b, n):
        """PyTorch projects, scales and projects again; examples are second."""
        parts, unit = (self.q_proj, self.k_proj, self.v_proj), torch.eye(H * D)
        x = (q.flatten(2) * D**0.5 - self.q_proj.bias) @ torch.linalg.inv(self.q_proj.weight).T
        bias = self.bias.masked_fill(LATER, float("-inf")).repeat(b, 1, 1)
        context, _ = nn.functional.multi_head_attention_forward(
            *(x.transpose(0, 1),) * 3,
            H * D,
            H,
            None,
            torch.cat([part.bias for part in parts]),
            None,
            None,
            False,
            0.0,
            unit,
            None,
            attn_mask=bias,
            use_separate_proj_weight=True,
            q_proj_weight=self.q_proj.weight,
            k_proj_weight=self.k_proj.weight,
            v_proj_weight=self.v_proj.weight,
        )
        return context.transpose(0, 1)


WAYS = ("four", "three", "letters", "turned", "windows", "fused", "packed")


def made(way: str) -> OwnAttention:
    return far_from_zero(OwnAttention(way), 0)


def by_hand(module: OwnAttention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    parts = (module.q_proj, module.k_proj, module.v_proj)
    q, k, v = (part(x).unflatten(-1, (H, D)).transpose(1, 2) for part in parts)
    scores = torch.einsum("bhid,bhjd->bhij", q, k) / D**0.5 + module.bias
    return q, v, scores.masked_fill(LATER, float("-inf")).softmax(-1)


@pytest.mark.parametrize("way", WAYS)
def test_attention_is_seen_however_it_is_written(way):
    """M, V and Q before it is scaled, heads apart from examples, order and metric; the module computes what
    it does without us."""
    module, x = made(way), normal(B, N, H * D)
    with torch.no_grad():
        want, (query, value, weight) = module(x), by_hand(module, x)
        with record(module) as graphs:
            got = module(x)
    torch.testing.assert_close(got, want, **({} if way == "fused" else dict(rtol=0, atol=0)))
    ((graph,),) = graphs.values()
    assert graph.causal and graph.kind == "self" and graph.span is None
    assert torch.equal(graph.visible, ~LATER.expand(B, -1, -1))
    for ours, theirs in ((graph.query, query), (graph.value, value), (graph.weight, weight)):
        torch.testing.assert_close(ours, theirs)
    blocks = module.out_proj.weight.T.reshape(H, D, -1)
    torch.testing.assert_close(graph.metric, blocks @ blocks.transpose(1, 2))


@pytest.mark.parametrize("way", WAYS)
def test_a_listener_may_replace_the_context_and_ask_for_gradients(way):
    """The module goes on with its context, and with the very weights that it was shown."""
    module, x, seen = made(way), normal(B, N, H * D), []
    handle = instrument(module)
    (site,) = handle.sites.values()
    site.listeners.append(lambda call: seen.append(call.weight))
    output = module(x)
    direction = normal(*output.shape)
    (gradient,) = torch.autograd.grad(output, seen[0], direction)
    value = by_hand(module, x)[1]
    back = (direction @ module.out_proj.weight).unflatten(-1, (H, D)).transpose(1, 2)
    torch.testing.assert_close(gradient, back @ value.transpose(-1, -2), rtol=1e-4, atol=1e-4)
    site.listeners.append(lambda call: setattr(call, "context", 2 * call.context))
    with torch.no_grad():
        bias = module.out_proj.bias
        torch.testing.assert_close(module(x) - bias, 2 * (output - bias))
    handle.remove()


@pytest.mark.parametrize("way", WAYS)
def test_a_call_can_be_computed_again_with_further_keys(way):
    """Which have no bias and are seen by all: the factor of the scores is known from what was multiplied."""
    module, x, calls = made(way), normal(B, N, H * D), []
    handle = instrument(module)
    (site,) = handle.sites.values()
    site.listeners.append(calls.append)
    with torch.no_grad():
        module(x)
        query, value, _ = by_hand(module, x)
        (call,) = calls
        for got, want in zip(call.eager(), (call.context.transpose(1, 2), call.weight)):
            torch.testing.assert_close(got, want)
        key, more = module.k_proj(x).unflatten(-1, (H, D)).transpose(1, 2), normal(B, H, 2, D)
        *bound, q, own_key, own_value, mask = call.eager.args
        mask = None if mask is None else nn.functional.pad(mask, (2, 0))
        keys, values = (torch.cat([more, own], 2) for own in (own_key, own_value))
        weight = call.eager.func(*bound, q, keys, values, mask, **call.eager.keywords)[1]
        scores = (query @ torch.cat([more, key], 2).transpose(-1, -2)) / D**0.5
        hidden = nn.functional.pad(module.bias.masked_fill(LATER, float("-inf")), (2, 0))
        torch.testing.assert_close(weight, (scores + hidden).softmax(-1))
    handle.remove()


class RenamedAttention(OwnAttention):
    """Whose projections have names that tell nothing."""

    def __init__(self, way: str):
        super().__init__(way)
        self.one = self._modules.pop("q_proj")

    @property
    def q_proj(self) -> nn.Module:
        return self.one


@pytest.mark.parametrize("way", ["four", "turned"])
def test_query_features_are_not_scaled_whatever_projections_are_called(way):
    """Whichever operand of the product they are."""
    module, x = far_from_zero(RenamedAttention(way), 0), normal(B, N, H * D)
    (graph,) = capture(module, x).values()
    torch.testing.assert_close(graph.query, by_hand(module, x)[0])


class HeadsFirstAttention(OwnAttention):
    def four(self, q, k, v, b, n):
        q, k, v = (x.permute(2, 0, 1, 3) for x in (q, k, v))
        scores = (q @ k.transpose(-1, -2) + self.bias[:, None]).masked_fill(LATER, float("-inf"))
        return (scores.softmax(-1) @ v.contiguous()).permute(1, 2, 0, 3).flatten(2)


class UncountedAttention(OwnAttention):
    """Does not say how many heads it has."""

    def __init__(self, way: str):
        super().__init__(way)
        del self.num_heads


@pytest.mark.parametrize("b", [H, B])
@pytest.mark.parametrize(
    "kind, way", [(HeadsFirstAttention, "four"), *((UncountedAttention, way) for way in ("three", "four"))]
)
def test_heads_are_told_from_examples(kind, way, b):
    """By what the states are and how heads lie in memory, also where there are as many of both."""
    module, x = far_from_zero(kind(way), 0), normal(b, N, H * D)
    (graph,) = capture(module, x).values()
    for ours, theirs in zip((graph.query, graph.value, graph.weight), by_hand(module, x)):
        torch.testing.assert_close(ours, theirs)


class ChunkedAttention(OwnAttention):
    def four(self, q, k, v, b, n):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        parts = [slice(0, 2), slice(2, n)]
        return torch.cat([self.part(q[:, :, x], k, v, LATER[x]) for x in parts], 2).transpose(1, 2).flatten(2)

    def part(self, q, k, v, hidden):
        return (q @ k.transpose(-1, -2)).masked_fill(hidden, float("-inf")).softmax(-1) @ v


class FusedChunkedAttention(ChunkedAttention):
    def part(self, q, k, v, hidden):
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=~hidden)


@pytest.mark.parametrize("kind", [ChunkedAttention, FusedChunkedAttention])
def test_queries_in_chunks_are_refused(kind):
    """Each chunk would look like cross-attention, in no order."""
    module, x = far_from_zero(kind("four"), 0), normal(B, N, H * D)
    with pytest.raises(UserError, match="attends to the same keys several times"):
        capture(module, x)
    want = module(x)
    handle = instrument(module)  # nobody listens
    torch.testing.assert_close(module(x), want)
    handle.remove()


class GivenAttention(OwnAttention):
    """Attends to whatever it is given, under any name."""

    def forward(self, x: Tensor, pictures: Tensor, late: bool = False) -> Tensor:
        b, n, m = *x.shape[:2], pictures.shape[1]
        q = self.q_proj(x).view(b, n, H, D)
        k, v = (y(pictures).view(b, m, H, D) for y in (self.k_proj, self.v_proj))
        return self.out_proj(self.attend(*(y.transpose(1, 2) for y in (q, k, v)), late))

    def attend(self, q, k, v, late):
        scores = q @ k.transpose(-1, -2)
        scores = scores.masked_fill(LATER, float("-inf")) if late else scores
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class FusedGivenAttention(GivenAttention):
    def attend(self, q, k, v, late):
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=late).transpose(1, 2).flatten(2)


class SharedGivenAttention(GivenAttention):
    """Through transformers' interface."""

    def __init__(self, way: str):
        super().__init__(way)
        self.config = PretrainedConfig(attn_implementation="eager")

    def attend(self, q, k, v, late):
        mask = torch.zeros(N, N).masked_fill(LATER, torch.finfo(q.dtype).min)[None, None] if late else None
        run = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        return run(self, q, k, v, mask, dropout=0.0, scaling=1.0)[0].flatten(2)


@pytest.mark.parametrize("kind", [GivenAttention, FusedGivenAttention, SharedGivenAttention])
@pytest.mark.parametrize("m", [N, N + 2])
def test_states_of_any_name_may_be_attended_to(kind, m):
    """Also as many as there are queries: they would be these, in no order, and adapters would leak later ones
    to earlier ones."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.own, self.cross = kind(""), kind("")

        def forward(self, x, pictures):
            return self.cross(self.own(x, x, late=True), pictures)

    graphs = capture(far_from_zero(Model(), 0), {"x": normal(B, N, H * D), "pictures": normal(B, m, H * D)})
    assert [(graph.kind, graph.causal) for graph in graphs.values()] == [("self", True), ("cross", True)]


def test_a_causal_mask_says_that_keys_are_those_of_queries():
    """Given twice, once with something added, they look like two kinds of states."""
    module, x = far_from_zero(GivenAttention(""), 0), normal(B, N, H * D)
    for given in (x, x[:], x + 1):
        (graph,) = capture(module, {"x": given, "pictures": x, "late": True}).values()
        assert graph.kind == "self" and graph.causal
    (graph,) = capture(module, {"x": x[:], "pictures": x}).values()
    assert graph.kind == "self"


class MixedGivenAttention(GivenAttention):
    """Keys of two kinds of states; and values that are not what keys are computed from."""

    def forward(self, x: Tensor, pictures: Tensor, places: Tensor) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(pictures.to(x) + places), self.v_proj(x)
        if self.way == "cross":
            v = torch.empty_like(x)
            v[:] = self.v_proj(pictures)
        return self.attend(*(y.unflatten(-1, (H, D)).transpose(1, 2) for y in (q, k, v)), late=False)


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_what_is_attended_to_follows_from_keys_and_values(kind):
    inputs = {name: normal(B, N, H * D) + k for k, name in enumerate(("x", "pictures", "places"))}
    (graph,) = capture(far_from_zero(MixedGivenAttention(kind), 0), inputs).values()
    assert graph.kind == kind


class CastAttention(OwnAttention):
    """Scores are computed in float32, whatever type the module has (GPT-Neo)."""

    def four(self, q, k, v, b, n):
        q, k, v = (x.transpose(1, 2) for x in (q.float(), k.float(), v))
        weight = (q @ k.transpose(-1, -2)).masked_fill(LATER, float("-inf")).softmax(-1).to(v.dtype)
        return (weight @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_queries_and_keys_have_the_type_of_values(dtype):
    """Otherwise a graph's distances and adapters mix two."""
    module, calls = far_from_zero(CastAttention("four"), 0).to(dtype), []
    x = normal(B, N, H * D).to(dtype)
    (graph,) = capture(module, x).values()
    assert {graph.query.dtype, graph.value.dtype, graph.weight.dtype} == {dtype}
    handle = instrument(module)
    (site,) = handle.sites.values()
    site.listeners.append(calls.append)
    with torch.no_grad():
        module(x)
    handle.remove()
    (call,) = calls
    assert {call.query.dtype, call.key.dtype} == {dtype}
    torch.testing.assert_close(call.eager()[1], call.weight)


class CosineAttention(RenamedAttention):
    def four(self, q, k, v, b, n):
        q, k = (nn.functional.normalize(x.transpose(1, 2), dim=-1) for x in (q, k))
        scores = (q @ k.transpose(-1, -2) * 7).masked_fill(LATER, float("-inf"))
        return (scores.softmax(-1) @ v.transpose(1, 2)).transpose(1, 2).flatten(2)


class NamedCosineAttention(OwnAttention):
    four = CosineAttention.four


@pytest.mark.parametrize("kind", [CosineAttention, NamedCosineAttention])
def test_queries_of_cosine_attention_keep_their_length(kind):
    """As values do, which distances compare them with; keys can't be added, and the error says so."""
    module, x, calls = far_from_zero(kind("four"), 0), normal(B, N, H * D), []
    (graph,) = capture(module, x).values()
    torch.testing.assert_close(graph.query, by_hand(module, x)[0])
    handle = instrument(module)
    (site,) = handle.sites.values()
    site.listeners.append(calls.append)
    module(x)
    handle.remove()
    (call,) = calls
    torch.testing.assert_close(call.eager()[1], call.weight)
    query, key, value, _ = call.eager.args
    with pytest.raises(UserError, match="scales queries and keys by more than a number"):
        call.eager.func(query, *(torch.cat([y, y], 2) for y in (key, value)), None)


class BlindAttention(OwnAttention):
    """The first query sees nothing."""

    def fused(self, q, k, v, b, n):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        mask = ~LATER & (torch.arange(n) > 0)[:, None]
        if self.added:
            mask = torch.zeros(n, n).masked_fill(~mask, float("-inf"))
        context = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        return context.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("added", [False, True])
def test_a_query_of_fused_attention_that_sees_nothing_gets_nothing(added):
    """As in PyTorch, with gradients: not the mean of the values, and no NaN."""
    module, x = far_from_zero(BlindAttention("fused"), 0), normal(B, N, H * D)
    module.added = added
    want = module(x)
    parameters = [part.weight for part in (module.q_proj, module.k_proj, module.v_proj)]
    gradients = torch.autograd.grad(want.square().sum(), parameters)
    with record(module) as graphs:
        got = module(x)
    torch.testing.assert_close(got, want)
    again = torch.autograd.grad(got.square().sum(), parameters)
    torch.testing.assert_close(again, gradients, rtol=1e-3, atol=1e-3)
    ((graph,),) = graphs.values()
    assert not graph.weight[:, :, 0].any()


class RoutedAttention(OwnAttention):
    """With experts: their router's softmax is multiplied too, with what the experts put out."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        share = self.q_proj(hidden_states).softmax(-1)  # (b, n, experts)
        expert = self.k_proj(hidden_states)[:, None].expand(-1, H * D, -1, -1)  # (b, experts, n, d)
        mixed = torch.einsum("bne,bend->bnd", share, expert)
        return mixed + super().forward(hidden_states)


class OtherAttention(OwnAttention):
    def other(self, q, k, v, b, n):
        return self.strange(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2).flatten(2)


class ColumnAttention(OtherAttention):
    def strange(self, q, k, v):
        return (q @ k.transpose(-1, -2)).softmax(-2) @ v


class AdditiveAttention(OtherAttention):
    def strange(self, q, k, v):
        return (q[..., None, :] + k[..., None, :, :]).tanh().sum(-1).softmax(-1) @ v


class BackwardAttention(OtherAttention):
    def strange(self, q, k, v):
        return (q @ k.transpose(-1, -2)).softmax(-1).transpose(-1, -2) @ v


class MixedAttention(UncountedAttention):
    """Heads and windows are one dimension, and nothing says how many heads there are."""

    def other(self, q, k, v, b, n):
        q, k, v = (x[:, : n - 1].unflatten(1, (2, -1)).transpose(2, 3).flatten(0, 2) for x in (q, k, v))
        context = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return nn.functional.pad(
            context.view(b, 2, H, -1, D).transpose(2, 3).flatten(3).flatten(1, 2), (0, 0, 0, 1)
        )


class OwnDropout(torch.autograd.Function):
    """As SEW-D's: inside, it is a product like any other."""

    @staticmethod
    def forward(ctx, x):
        return x.masked_fill(torch.arange(x.shape[-1]) % 2 == 0, 0) * 2


class DroppedAttention(OtherAttention):
    def strange(self, q, k, v):
        return OwnDropout.apply((q @ k.transpose(-1, -2)).softmax(-1)) @ v


class FlatAttention(OtherAttention):
    def strange(self, q, k, v):
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        context = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=~LATER)
        return context.unflatten(0, (-1, H))


class LonelyAttention(OtherAttention):
    def strange(self, q, k, v):
        return (q @ k.transpose(-1, -2)).softmax(-1).max(-1, keepdim=True).values * v


class HalfReadAttention(FlatAttention):
    def strange(self, q, k, v):
        return super().strange(q, k, (q @ k.transpose(-1, -2)).softmax(-1) @ v)


def test_fused_attention_beside_a_readable_call_is_not_left_out():
    with pytest.raises(UserError, match="the layout of scaled_dot_product_attention"):
        capture(far_from_zero(HalfReadAttention("other"), 0), normal(B, N, H * D))


def test_a_routers_softmax_is_no_attention():
    module = far_from_zero(RoutedAttention("four"), 0)
    graphs = capture(module, normal(B, N, H * D))
    assert [graph.shape for graph in graphs.values()] == [(B, H, N, N, D)]


@pytest.mark.parametrize(
    "kind, reason",
    [
        (ColumnAttention, "the softmax is not over the last"),
        (AdditiveAttention, "the scores of its softmax are not a product of queries and keys"),
        (BackwardAttention, r"the weights of its softmax are mixed or turned \(transpose\)"),
        (MixedAttention, "the layout of its weights by examples and heads is unknown"),
        (DroppedAttention, "the weights of its softmax are multiplied by more than 1 .* as custom dropout"),
        (FlatAttention, "the layout of scaled_dot_product_attention by examples and heads is unknown"),
        (LonelyAttention, "the weights of its softmax are not multiplied with values"),
    ],
)
def test_what_is_no_attention_is_refused_and_otherwise_left_alone(kind, reason):
    model = nn.Sequential(far_from_zero(kind("other"), 0))
    x = normal(B, N, H * D)
    with torch.no_grad():
        want = model(x)
        message = rf"^the attention of 0 \({kind.__name__}\) cannot be read: {reason}"
        with pytest.raises(UserError, match=message):
            capture(model, x)
        handle = instrument(model)  # nobody listens
        assert torch.equal(model(x), want)
    handle.remove()


class FailingAttention(OwnAttention):
    error: type[BaseException]

    def four(self, q, k, v, b, n):
        super().four(q, k, v, b, n)
        raise self.error


def test_nothing_is_watched_after_the_handle_is_gone():
    module, x = far_from_zero(GivenAttention(""), 0), normal(B, N, H * D)
    handle = instrument(module)
    (site,) = handle.sites.values()
    site.listeners.append(lambda call: handle.remove())
    module(x, x + 1)
    assert not _get_current_function_mode_stack()


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])  # after this one no hook runs
def test_nothing_is_watched_after_an_error(error):
    module = far_from_zero(FailingAttention("four"), 0)
    module.error = error
    try:
        with record(module, on_graph=lambda *_: None), pytest.raises(error):
            module(normal(B, N, H * D))
        assert not _get_current_function_mode_stack()
    finally:
        while stack := _get_current_function_mode_stack():
            stack[-1].__exit__(None, None, None)


def test_threads_are_watched_apart():
    """Two at once, each in the middle of the other's pass."""
    module, barrier, seen = made("three"), Barrier(2), {}
    handle = instrument(module)
    (site,) = handle.sites.values()

    def wait(*_) -> None:
        barrier.wait(10)

    hook = module.v_proj.register_forward_hook(wait)
    inputs = [normal(B, N, H * D), normal(B, N, H * D).flip(0)]

    def run(k: int) -> None:
        with torch.no_grad():
            module(inputs[k])

    site.listeners.append(lambda call: seen.setdefault(call.value.data_ptr(), call))
    threads = [Thread(target=run, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handle.remove()
    hook.remove()
    found = [call.weight for call in seen.values()]
    with torch.no_grad():
        for x in inputs:
            weight = by_hand(module, x)[2]
            assert sum(torch.allclose(weight, other, atol=1e-6) for other in found) == 1
