"""Relevance against loops in float64, finite differences and identities."""

from dataclasses import replace

import pytest
import torch

from adapters.blip import attach
from adapters.config import AdapterConfig
from analysis.relevance import capture_with_gradients, image_nodes, raw, relevance, rollout, route
from attngraph import AttentionGraph
from attngraph.reading.instrument import instrument
from tests.attngraph.reading.zoo import FAMILIES

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
    return AttentionGraph(
        torch.zeros(b, h, n, 1),
        torch.zeros(b, h, m, 1),
        weight,
        kind=kind,
        query_modality=sides[0],
        value_modality=sides[1],
        causal=causal,
    )


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
    return graphs, {
        name: torch.randn(g.weight.shape, generator=draw, dtype=torch.float64) for name, g in graphs.items()
    }


def by_loops(graphs: dict, gradients: dict, example: int) -> tuple[list[list[float]], list[list[float]]]:
    """Equations (5) to (11) with one sum at a time."""

    def bar(name):
        a, g = graphs[name].weight[example].tolist(), gradients[name][example].tolist()
        heads, n, m = len(a), len(a[0]), len(a[0][0])
        return [
            [sum(max(0.0, g[k][i][j] * a[k][i][j]) for k in range(heads)) / heads for j in range(m)]
            for i in range(n)
        ]

    def product(x, y):
        return [
            [sum(x[i][k] * y[k][j] for k in range(len(y))) for j in range(len(y[0]))] for i in range(len(x))
        ]

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
        torch.testing.assert_close(
            found.own[example], torch.tensor(ss, dtype=torch.float64), rtol=1e-12, atol=0
        )
        torch.testing.assert_close(
            found.seen[example], torch.tensor(sq, dtype=torch.float64), rtol=1e-12, atol=0
        )
    assert found.seen.min() > 0


def test_one_layer_has_a_closed_form():
    graphs, gradients = made_up()
    bar = (graphs["c0"].weight * gradients["c0"]).clamp(min=0).mean(1)
    alone = relevance({"c0": graphs["c0"]}, gradients)
    torch.testing.assert_close(alone.seen, bar)
    torch.testing.assert_close(alone.own, torch.eye(3, dtype=torch.float64).expand(2, -1, -1))
    own = (graphs["s0"].weight * gradients["s0"]).clamp(min=0).mean(1)
    both = relevance({"s0": graphs["s0"], "c0": graphs["c0"]}, gradients)
    sums = own.sum(-1, keepdim=True)
    assert (sums > 0).all()
    torch.testing.assert_close(both.seen, bar + (own / sums).transpose(1, 2) @ bar)


def test_without_gradients_every_token_is_only_itself():
    graphs, gradients = made_up()
    found = relevance(graphs, {name: 0 * g for name, g in gradients.items()})
    assert torch.equal(found.own, torch.eye(3, dtype=torch.float64).expand(2, -1, -1))
    assert not found.seen.any()


def test_only_positive_contributions_count():
    graphs, gradients = made_up()
    found = relevance(graphs, {name: -g.abs() for name, g in gradients.items()})
    assert not found.seen.any()


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
    scaled = {
        name: replace(g, weight=g.weight * scale) if name[0] != "e" else g for name, g in graphs.items()
    }
    for one, other in zip(rollout(graphs), rollout(scaled)):
        torch.testing.assert_close(one, other)
    mask = torch.tensor([[True, True, False]] * 2)
    padded = {name: replace(g, query_mask=mask) if name[0] != "e" else g for name, g in graphs.items()}
    found = rollout(padded)
    torch.testing.assert_close(torch.cat(found, -1).sum(-1), torch.ones(2, 3, dtype=torch.float64))
    assert found.own[:, 2].tolist() == [[0, 0, 1]] * 2


def test_raw_is_the_mean_over_heads_of_the_last_layer():
    graphs, _ = made_up()
    torch.testing.assert_close(raw(graphs), (graphs["c1"].weight[:, 0] + graphs["c1"].weight[:, 1]) / 2)
    torch.testing.assert_close(raw(graphs, "c0"), graphs["c0"].weight.mean(1))
    torch.testing.assert_close(raw(graphs, heads=[1]), graphs["c1"].weight[:, 1])
    with pytest.raises(ValueError, match=r"heads must lie in 0\.\.1 for c1, got \[2\]"):
        raw(graphs, heads=[2])
    with pytest.raises(ValueError, match="layer must be one of c0, c1, got 'c2'"):
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
    assert (found.seen[:, POSITION].sum(-1) > 0).all()
    assert not found.seen[:, POSITION + 1 :].any()
    assert not found.own[:, POSITION, POSITION + 1 :].any()


def test_padding_changes_nothing(make_captioner, words):
    model, batch = make_captioner().double(), inputs(words)
    padded = {
        **batch,
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 2)),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 2)),
    }
    short, long = capture_with_gradients(model, batch, score), capture_with_gradients(model, padded, score)
    for one, other in ((relevance(*short), relevance(*long)), (rollout(short[0]), rollout(long[0]))):
        torch.testing.assert_close(one.seen, other.seen[:, :5])
        torch.testing.assert_close(one.own, other.own[:, :5, :5])
    torch.testing.assert_close(raw(short[0]), raw(long[0])[:, :5])


def test_the_route_of_an_encoder_and_a_decoder(make_captioner, words):
    model = make_captioner().double()
    found = route(capture_with_gradients(model, inputs(words), score)[0])  # five tokens and five image nodes
    assert found.layers == [SELF.format(0), CROSS.format(0), SELF.format(1), CROSS.format(1)]
    assert found.hops == [CROSS.format(1)]


ROUTES = {
    "bert": ["encoder.layer.1.attention.self"],
    "gpt2": ["transformer.h.1.attn"],
    "llama": ["model.layers.1.self_attn"],
    "vit": ["layers.1.attention"],
    "clip": ["vision_model.encoder.layers.1.self_attn"],
    "siglip": ["vision_model.head.attention"],
    "t5": ["decoder.block.1.layer.1.EncDecAttention"],
    "bart": ["model.decoder.layers.1.encoder_attn"],
    "blip": [CROSS.format(1)],
    "blip2": [
        "language_model.model.decoder.layers.1.self_attn",
        "qformer.encoder.layer.0.crossattention.attention",
    ],
    "instructblip": [
        "language_model.model.layers.1.self_attn",
        "qformer.encoder.layer.0.crossattention.attention",
    ],
    "kosmos2": ["text_model.model.layers.1.self_attn", "image_to_text_projection.x_attn"],
    "llava": ["model.language_model.layers.1.self_attn"],
    "smolvlm": ["model.text_model.layers.1.self_attn"],
    "qwen2-vl": ["model.language_model.layers.1.self_attn"],
    "mllama": ["model.language_model.layers.2.cross_attn"],
    "florence2": ["model.language_model.decoder.layers.1.encoder_attn"],
    "git": ["git.encoder.layer.1.attention.self"],
    "trocr": ["decoder.model.decoder.layers.1.encoder_attn"],
    "donut": ["decoder.model.decoder.layers.1.encoder_attn"],
    "visualbert": ["encoder.layer.1.attention.self"],
    "flava": ["multimodal_model.encoder.layer.1.attention.attention"],
    "bridgetower": ["cross_modal_text_layers.1.crossattention.self"],
    "vilt": ["encoder.layer.1.attention.attention"],
    "lxmert": ["encoder.x_layers.0.visual_attention.att"],
}


def test_every_family_has_a_route():
    assert set(ROUTES) == set(FAMILIES)


@pytest.mark.parametrize("family", ROUTES)
def test_routes_of_all_kinds_of_models(family):
    model = FAMILIES[family].model()

    def score(output):  # of all that came out, for each example
        parts = [
            part for part in output.to_tuple() if isinstance(part, torch.Tensor) and part.is_floating_point()
        ]
        return sum(
            part.flatten(1).square().mean(1) for part in parts if part.requires_grad and part.shape[0] == 2
        )

    graphs, gradients = capture_with_gradients(model, FAMILIES[family].inputs(left=True), score)
    found = route(graphs)
    assert found.hops == ROUTES[family] and found.hops[0] in found.layers
    assert all(gradients[name].any() for name in found.hops)
    n, m = graphs[found.hops[0]].weight.shape[2], graphs[found.hops[-1]].weight.shape[3]
    for one in (relevance(graphs, gradients), rollout(graphs)):
        assert one.own.shape == (2, n, n) and one.seen.shape == (2, n, m)
        assert one.seen.isfinite().all() and (one.seen >= 0).all() and one.seen.any()
    assert raw(graphs).shape == (2, n, m)


def two_streams() -> tuple[dict[str, AttentionGraph], dict[str, torch.Tensor]]:
    """Words and regions that look at themselves and then, by one module, at one another; twice."""
    graphs = {}
    for k in range(2):
        graphs[f"s{k}"] = graph(softmax(2, 2, 3, 3, seed=20 + k), "self", ("text", "text"))
        graphs[f"e{k}"] = graph(softmax(2, 2, 4, 4, seed=30 + k), "self", ("image", "image"))
        graphs[f"x{k}"] = graph(softmax(2, 2, 3, 4, seed=40 + k), "cross", ("text", "image"))
        graphs[f"x{k}#2"] = graph(softmax(2, 2, 4, 3, seed=50 + k), "cross", ("image", "text"))
    draw = torch.Generator().manual_seed(12)
    return graphs, {
        name: torch.randn(g.weight.shape, generator=draw, dtype=torch.float64) for name, g in graphs.items()
    }


def test_two_streams_equal_the_equations_written_out():
    graphs, gradients = two_streams()
    bar = {name: (g.weight * gradients[name]).clamp(min=0).mean(1) for name, g in graphs.items()}

    def norm(r):  # (8, 9)
        hat = r - torch.eye(r.shape[-1])
        return torch.eye(r.shape[-1]) + hat / hat.sum(-1, keepdim=True)

    def t(r):
        return norm(r).transpose(1, 2)

    eye = {size: torch.eye(size, dtype=torch.float64) for size in (3, 4)}
    ss, qq = eye[3] + bar["s0"], eye[4] + bar["e0"]
    sq, qs = t(ss) @ bar["x0"] @ norm(qq), t(qq) @ bar["x0#2"] @ norm(ss)
    ss, sq = ss + bar["s1"] @ ss, sq + bar["s1"] @ sq
    qq, qs = qq + bar["e1"] @ qq, qs + bar["e1"] @ qs
    ss, sq = ss + bar["x1"] @ qs, sq + t(ss) @ bar["x1"] @ norm(qq)
    found = relevance(graphs, gradients)
    torch.testing.assert_close(found.own, ss)
    torch.testing.assert_close(found.seen, sq)


def test_rollout_of_two_streams_is_the_product_of_square_matrices():
    graphs, _ = two_streams()
    product = torch.eye(7, dtype=torch.float64).expand(2, -1, -1)
    places = {"text": slice(0, 3), "image": slice(3, 7)}
    for names in (["s0"], ["e0"], ["x0", "x0#2"], ["s1"], ["e1"], ["x1", "x1#2"]):
        layer = torch.eye(7, dtype=torch.float64).repeat(2, 1, 1)
        for name in names:
            rows, columns = places[graphs[name].query_modality], places[graphs[name].value_modality]
            layer[:, rows] *= 0.5
            layer[:, rows, columns] += 0.5 * graphs[name].weight.mean(1)
        product = layer @ product
    torch.testing.assert_close(torch.cat(rollout(graphs), -1), product[:, :3])


def test_one_sequence_is_the_product_over_its_layers():
    graphs, gradients = made_up()
    graphs = {name: graphs[name] for name in ("e0", "e1")}
    bar = [(graphs[name].weight * gradients[name]).clamp(min=0).mean(1) for name in ("e0", "e1")]
    found, eye = relevance(graphs, gradients), torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(found.own, (eye + bar[1]) @ (eye + bar[0]))
    assert torch.equal(found.seen, found.own)


def through_queries() -> tuple[dict[str, AttentionGraph], dict[str, torch.Tensor], torch.Tensor]:
    """Two queries that look at four image nodes and become the image tokens of a sequence of five, at other
    places in each example."""
    image = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]]).bool()
    own = softmax(2, 2, 5, 5, seed=63).tril()
    graphs = {
        "e": graph(softmax(2, 2, 4, 4, seed=60), "self", ("image", "image")),
        "q": graph(softmax(2, 2, 2, 2, seed=61), "self", ("image", "image")),
        "c": graph(softmax(2, 2, 2, 4, seed=62), "cross", ("image", "image")),
        "l": graph(own / own.sum(-1, keepdim=True), "self", (image, image), causal=True),
    }
    draw = torch.Generator().manual_seed(13)
    return (
        graphs,
        {
            name: torch.randn(g.weight.shape, generator=draw, dtype=torch.float64)
            for name, g in graphs.items()
        },
        image,
    )


def test_image_tokens_see_what_the_queries_saw_that_became_them():
    graphs, gradients, image = through_queries()
    assert route(graphs) == (["l"], ["l", "c"]) and torch.equal(image_nodes(graphs["l"], 0), image)
    eye = {size: torch.eye(size, dtype=torch.float64) for size in (2, 4, 5)}
    bar = {name: (g.weight * gradients[name]).clamp(min=0).mean(1) for name, g in graphs.items()}
    mean = {name: g.weight.mean(1) for name, g in graphs.items()}

    def norm(x):  # (9), where a layer's own weights are all that was added to the identity
        return eye[x.shape[-1]] + x / x.sum(-1, keepdim=True)

    seen = norm(bar["q"]).transpose(1, 2) @ bar["c"] @ norm(bar["e"])
    mixed = 0.5 * mean["c"] @ (0.5 * (eye[4] + mean["e"]))
    for found, own, there in (
        (relevance(graphs, gradients), eye[5] + bar["l"], seen),
        (rollout(graphs), 0.5 * (eye[5] + mean["l"]), mixed),
    ):
        torch.testing.assert_close(found.own, own)
        for k in range(2):
            torch.testing.assert_close(found.seen[k], own[k][:, image[k]] @ there[k])
    for k in range(2):
        torch.testing.assert_close(raw(graphs)[k], mean["l"][k][:, image[k]] @ mean["c"][k])


def test_an_answer_sees_the_image_through_the_question():
    """A decoder that looks at a question, whose encoder looks at the image."""
    text = ("text", "text")
    own = softmax(2, 2, 2, 2, seed=73).tril()
    graphs = {
        "q": graph(softmax(2, 2, 3, 3, seed=70), "self", text),
        "c": graph(softmax(2, 2, 3, 4, seed=71), "cross", ("text", "image")),
        "s": graph(own / own.sum(-1, keepdim=True), "self", text, causal=True),
        "a": graph(softmax(2, 2, 2, 3, seed=72), "cross", text, causal=True),
    }
    draw = torch.Generator().manual_seed(14)
    gradients = {
        name: torch.randn(g.weight.shape, generator=draw, dtype=torch.float64) for name, g in graphs.items()
    }
    assert route(graphs) == (["s", "a"], ["a", "c"])
    mean, bar = (
        {name: f(name) for name in graphs}
        for f in (
            lambda name: graphs[name].weight.mean(1),
            lambda name: (graphs[name].weight * gradients[name]).clamp(min=0).mean(1),
        )
    )
    torch.testing.assert_close(raw(graphs), mean["a"] @ mean["c"])
    torch.testing.assert_close(rollout(graphs).seen, 0.25 * mean["a"] @ mean["c"])
    asked = (torch.eye(3, dtype=torch.float64) + bar["q"] / bar["q"].sum(-1, keepdim=True)).transpose(
        1, 2
    ) @ bar["c"]
    torch.testing.assert_close(relevance(graphs, gradients).seen, bar["a"] @ asked)


def test_what_cannot_be_read_is_refused():
    graphs, gradients = made_up()
    with pytest.raises(ValueError, match="graphs must hold a layer, got none"):
        route({})
    square = graph(softmax(2, 2, 3, 3), "self", ("text", "text"))
    with pytest.raises(ValueError, match="tell the two sides of c apart"):
        route({"s": square, "c": graph(softmax(2, 2, 3, 3), "cross", ("text", "text"))})
    with pytest.raises(ValueError, match=r"gradients must hold c1 with shape \(2, 2, 3, 4\), got none"):
        relevance(graphs, {name: g for name, g in gradients.items() if name != "c1"})
    with pytest.raises(ValueError, match=r"got \(2, 3, 4\)"):
        relevance(graphs, gradients | {"c1": gradients["c1"][:, 0]})


def test_a_score_is_one_number_per_example(make_captioner, words):
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(2, 5\)"):
        capture_with_gradients(
            make_captioner().double(), inputs(words), lambda output: output.logits[:, :, 0]
        )
