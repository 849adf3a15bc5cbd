"""Relevance against loops in float64, finite differences and identities."""

from dataclasses import replace

import pytest
import torch

from adapters.blip import attach
from adapters.config import AdapterConfig
from analysis.relevance import capture_with_gradients, raw, relevance, rollout, stack
from attngraph import AttentionGraph
from attngraph.instrument import instrument

CROSS = "text_decoder.bert.encoder.layer.{}.crossattention.self"
SELF = "text_decoder.bert.encoder.layer.{}.attention.self"
VISION = "vision_model.encoder.layers.0.self_attn"
POSITION = 3


def inputs(words, b=2, n=5, dtype=torch.float64) -> dict:
    pixels = torch.randn(b, 3, 8, 8, generator=torch.Generator().manual_seed(5)).to(dtype)
    ids = words(b, n)
    return {"pixel_values": pixels, "input_ids": ids, "attention_mask": torch.ones_like(ids)}


def score(output) -> torch.Tensor:
    return output.logits[:, POSITION, 7]


def graph(weight: torch.Tensor, kind: str, sides: tuple[str, str], causal: bool = False) -> AttentionGraph:
    b, h, n, m = weight.shape
    return AttentionGraph(torch.zeros(b, h, n, 1), torch.zeros(b, h, m, 1), weight, kind=kind, query_modality=sides[0],
                          value_modality=sides[1], causal=causal)


def softmax(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(-1)


def made_up() -> tuple[dict[str, AttentionGraph], dict[str, torch.Tensor]]:
    """Two layers of an encoder of 4 nodes, two of a decoder of 3; random gradients of both signs."""
    b, h, n, m = 2, 2, 3, 4
    image, text = ("image", "image"), ("text", "text")
    graphs = {f"e{k}": graph(softmax(b, h, m, m, seed=1 + k), "self", image) for k in range(2)}
    for k in range(2):
        own = softmax(b, h, n, n, seed=3 + k).tril()
        graphs[f"s{k}"] = graph(own / own.sum(-1, keepdim=True), "self", text, causal=True)
        graphs[f"c{k}"] = graph(softmax(b, h, n, m, seed=7 + k), "cross", ("text", "image"), causal=True)
    draw = torch.Generator().manual_seed(11)
    return graphs, {name: torch.randn(g.weight.shape, generator=draw, dtype=torch.float64)
                    for name, g in graphs.items()}


def by_loops(graphs: dict, gradients: dict, example: int) -> tuple[list[list[float]], list[list[float]]]:
    """Equations (5) to (11) with one sum at a time."""
    def bar(name):
        a, g = graphs[name].weight[example].tolist(), gradients[name][example].tolist()
        heads, n, m = len(a), len(a[0]), len(a[0][0])
        return [[sum(max(0.0, g[k][i][j] * a[k][i][j]) for k in range(heads)) / heads for j in range(m)]
                for i in range(n)]

    def product(x, y):
        return [[sum(x[i][k] * y[k][j] for k in range(len(y))) for j in range(len(y[0]))] for i in range(len(x))]

    def plus(x, y):
        return [[x[i][j] + y[i][j] for j in range(len(x[0]))] for i in range(len(x))]

    def eye(size):
        return [[float(i == j) for j in range(size)] for i in range(size)]

    def rows_normalised(r):
        out = eye(len(r))
        for i, row in enumerate(r):
            hat = [x - float(i == j) for j, x in enumerate(row)]
            if sum(hat) > 0:
                out[i] = [out[i][j] + hat[j] / sum(hat) for j in range(len(r))]
        return out

    n, m = graphs["c0"].weight.shape[2:]
    ss, qq, sq = eye(n), eye(m), [[0.0] * m for _ in range(n)]
    for name in ("e0", "e1"):
        qq = plus(qq, product(bar(name), qq))
    for k in range(2):
        a = bar(f"s{k}")
        sq, ss = plus(sq, product(a, sq)), plus(ss, product(a, ss))
        transposed = [list(column) for column in zip(*rows_normalised(ss))]
        sq = plus(sq, product(product(transposed, bar(f"c{k}")), rows_normalised(qq)))
    return ss, sq


def test_relevance_equals_loops():
    graphs, gradients = made_up()
    found = relevance(graphs, gradients)
    for example in range(2):
        ss, sq = by_loops(graphs, gradients, example)
        torch.testing.assert_close(found.decoder[example], torch.tensor(ss, dtype=torch.float64), rtol=1e-12, atol=0)
        torch.testing.assert_close(found.encoder[example], torch.tensor(sq, dtype=torch.float64), rtol=1e-12, atol=0)
    assert found.encoder.min() > 0


def test_one_layer_has_a_closed_form():
    graphs, gradients = made_up()
    bar = (graphs["c0"].weight * gradients["c0"]).clamp(min=0).mean(1)
    alone = relevance({"c0": graphs["c0"]}, gradients)
    torch.testing.assert_close(alone.encoder, bar)
    torch.testing.assert_close(alone.decoder, torch.eye(3, dtype=torch.float64).expand(2, -1, -1))
    own = (graphs["s0"].weight * gradients["s0"]).clamp(min=0).mean(1)
    both = relevance({"s0": graphs["s0"], "c0": graphs["c0"]}, gradients)
    sums = own.sum(-1, keepdim=True)
    assert (sums > 0).all()
    torch.testing.assert_close(both.encoder, bar + (own / sums).transpose(1, 2) @ bar)


def test_without_gradients_every_token_is_only_itself():
    graphs, gradients = made_up()
    found = relevance(graphs, {name: 0 * g for name, g in gradients.items()})
    assert torch.equal(found.decoder, torch.eye(3, dtype=torch.float64).expand(2, -1, -1))
    assert not found.encoder.any()


def test_only_positive_contributions_count():
    graphs, gradients = made_up()
    found = relevance(graphs, {name: -g.abs() for name, g in gradients.items()})
    assert not found.encoder.any()


def test_rollout_is_the_product_of_the_layers_on_both_sides():
    graphs, _ = made_up()
    n, m = graphs["c0"].weight.shape[2:]
    product = torch.eye(n + m, dtype=torch.float64).expand(2, -1, -1)
    for name, g in graphs.items():
        layer = torch.eye(n + m, dtype=torch.float64).repeat(2, 1, 1)
        rows = slice(n, None) if name[0] == "e" else slice(None, n)
        columns = slice(None, n) if name[0] == "s" else slice(n, None)
        layer[:, rows] *= 0.5
        layer[:, rows, columns] += 0.5 * g.weight.mean(1)
        product = layer @ product
    found = rollout(graphs)
    torch.testing.assert_close(torch.cat(found, -1), product[:, :n])
    torch.testing.assert_close(torch.cat(found, -1).sum(-1), torch.ones(2, n, dtype=torch.float64))


def test_rollout_takes_rows_for_what_they_are_worth():
    """Weights that are no distribution (those of an adapter), and tokens without any."""
    graphs, _ = made_up()
    scale = torch.rand(2, 1, 3, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.5
    scaled = {name: replace(g, weight=g.weight * scale) if name[0] != "e" else g for name, g in graphs.items()}
    for one, other in zip(rollout(graphs), rollout(scaled)):
        torch.testing.assert_close(one, other)
    mask = torch.tensor([[True, True, False]] * 2)
    padded = {name: replace(g, query_mask=mask) if name[0] != "e" else g for name, g in graphs.items()}
    found = rollout(padded)
    torch.testing.assert_close(torch.cat(found, -1).sum(-1), torch.ones(2, 3, dtype=torch.float64))
    assert found.decoder[:, 2].tolist() == [[0, 0, 1]] * 2


def test_raw_is_the_mean_over_heads_of_the_last_layer():
    graphs, _ = made_up()
    torch.testing.assert_close(raw(graphs), (graphs["c1"].weight[:, 0] + graphs["c1"].weight[:, 1]) / 2)
    torch.testing.assert_close(raw(graphs, "c0"), graphs["c0"].weight.mean(1))
    torch.testing.assert_close(raw(graphs, heads=[1]), graphs["c1"].weight[:, 1])
    with pytest.raises(ValueError, match=r"heads must lie in 0\.\.1 for c1, got \[2\]"):
        raw(graphs, heads=[2])
    with pytest.raises(ValueError, match="layer must be one of e0, e1, s0, c0, s1, c1, got 'c2'"):
        raw(graphs, "c2")


@pytest.mark.parametrize("adapted", [False, True])
def test_gradients_are_those_of_finite_differences(make_captioner, words, adapted):
    """Weights of one layer are moved, before anything reads them, and the score follows."""
    model = make_captioner().double()
    if adapted:
        attach(model, AdapterConfig(join="replace", reduction=2))
        model.double()
    batch = inputs(words)
    graphs, gradients = capture_with_gradients(model, batch, score)
    assert list(graphs) == list(gradients) and len(graphs) == 5
    for seed, name in enumerate([VISION, SELF.format(0), CROSS.format(0), SELF.format(1), CROSS.format(1)]):
        weight = graphs[name].weight
        draw = torch.Generator().manual_seed(seed)
        step = torch.randn(weight.shape, generator=draw, dtype=torch.float64) * (weight > 0)

        def moved(size):
            def move(call):
                new = call.weight + size * step
                call.__dict__["_eager"] = (new @ call.value).transpose(1, 2), new

            handle = instrument(model)
            handle.sites[name].listeners.insert(0, move)
            with torch.no_grad():
                y = score(model(**batch))
            handle.sites[name].listeners.remove(move)
            handle.remove()
            return y

        slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
        told = (gradients[name] * step).sum((1, 2, 3))
        assert told.abs().min() > 1e-4
        torch.testing.assert_close(told, slope, rtol=1e-5, atol=1e-8)


def test_a_frozen_model_stays_as_it_is(make_captioner, words):
    model = make_captioner()
    batch = inputs(words, dtype=torch.float32)
    with torch.no_grad():
        before = model(**batch).logits
    free = capture_with_gradients(model, batch, score)[1]
    model.requires_grad_(False)
    next(model.text_decoder.parameters()).requires_grad_(True)
    flags = [p.requires_grad for p in model.parameters()]
    frozen = capture_with_gradients(model, batch, score)[1]
    assert all(torch.equal(free[name], frozen[name]) and free[name].any() for name in free)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, before)


def test_nothing_comes_from_later_tokens(make_captioner, words):
    found = relevance(*capture_with_gradients(make_captioner().double(), inputs(words, n=6), score))
    assert (found.encoder[:, POSITION].sum(-1) > 0).all()
    assert not found.encoder[:, POSITION + 1:].any()
    assert not found.decoder[:, POSITION, POSITION + 1:].any()


def test_padding_changes_nothing(make_captioner, words):
    model, batch = make_captioner().double(), inputs(words)
    padded = {**batch, "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 2)),
              "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 2))}
    short, long = capture_with_gradients(model, batch, score), capture_with_gradients(model, padded, score)
    for one, other in ((relevance(*short), relevance(*long)), (rollout(short[0]), rollout(long[0]))):
        torch.testing.assert_close(one.encoder, other.encoder[:, :5])
        torch.testing.assert_close(one.decoder, other.decoder[:, :5, :5])
    torch.testing.assert_close(raw(short[0]), raw(long[0])[:, :5])


def test_stack_finds_encoder_and_decoder(make_captioner, words):
    model = make_captioner().double()
    layers = stack(capture_with_gradients(model, inputs(words), score)[0])  # five tokens and five image nodes
    assert layers.encoder == [VISION]
    assert layers.decoder == [SELF.format(0), CROSS.format(0), SELF.format(1), CROSS.format(1)]
    assert layers.cross == [CROSS.format(0), CROSS.format(1)]


def test_what_is_no_encoder_and_decoder_is_refused():
    graphs, gradients = made_up()
    with pytest.raises(ValueError, match="must hold a cross-attention layer; there are e0"):
        stack({"e0": graphs["e0"]})
    back = graph(softmax(2, 2, 4, 3), "cross", ("image", "text"))
    with pytest.raises(ValueError, match="back joins other nodes than c1"):
        stack({"back": back, **graphs})
    square = graph(softmax(2, 2, 3, 3), "self", ("text", "text"))
    with pytest.raises(ValueError, match="the encoder from the decoder"):
        stack({"s": square, "c": graph(softmax(2, 2, 3, 3), "cross", ("text", "text"))})
    with pytest.raises(ValueError, match=r"gradients must hold c1 with shape \(2, 2, 3, 4\), got none"):
        relevance(graphs, {name: g for name, g in gradients.items() if name != "c1"})
    with pytest.raises(ValueError, match=r"got \(2, 3, 4\)"):
        relevance(graphs, gradients | {"c1": gradients["c1"][:, 0]})


def test_a_score_is_one_number_per_example(make_captioner, words):
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(2, 5\)"):
        capture_with_gradients(make_captioner().double(), inputs(words), lambda output: output.logits[:, :, 0])
