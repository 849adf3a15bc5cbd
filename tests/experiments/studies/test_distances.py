"""The arms of the study of distances: what their weights are, and what the oracle knows."""

import functools
import math
from dataclasses import replace

import pytest
import torch

from attngraph import AttentionGraph
from attngraph.adapters import SCHEMES
from attngraph.analysis.contrast import Distances as Measured
from attngraph.backends import edges_of
from attngraph.edges import rsqrt
from attngraph.errors import UserError
from attngraph.experiments.inspect.regions import Regions
from attngraph.experiments.inspect.source import task_samples
from attngraph.experiments.methods import METHODS
from attngraph.experiments.methods.settings import Settings
from attngraph.experiments.models import load_family
from attngraph.experiments.models.family import Decoding
from attngraph.experiments.models.generation import decoder_logits
from attngraph.experiments.studies.reweighting import SEES, Distances, other_patches
from attngraph.experiments.tables.grid import load_preset
from attngraph.experiments.tables.plan import plan_table
from attngraph.experiments.tasks import TASKS
from tests.adapters.contract import random_graph
from tests.experiments.inspect.looking import source
from tests.experiments.runs.small import small_family

VALUES = 10  # [CLS] and nine patches


class Told:
    """In the place of what the oracle knows."""

    def __init__(self, relevant):
        self.given = relevant

    def relevant(self):
        return self.given


def graph_of(seed: int = 0, **options) -> AttentionGraph:
    return random_graph(seed, n=5, m=VALUES, causal=True, **options)[0]


def adapter_of(study, arm: str, family):
    torch.manual_seed(0)
    method = METHODS[arm]
    return method.apply(family, method.settings(Settings(), "caption"))


# ---- weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("free", [False, True], ids=["coupled", "free"])
@pytest.mark.parametrize("sees", ["nothing", "other_patch", "closed_form", "natural", "oracle"])
def test_weights_are_powers_of_what_each_arm_sees(sees, free):
    graph = graph_of()
    relevant = torch.rand(2, 5, VALUES, generator=torch.Generator().manual_seed(3)) < 0.4
    scheme = Distances(sees, free=free, p=1.3)
    scheme.shown = Told(relevant)
    if free:
        scheme.a.logit.set(0.5)
        scheme.b.logit.set(-1.0)
        exponents = 0.5 + 1 / (1 + math.exp(-0.5)), -2 + 4 / (1 + math.exp(1.0))
    else:
        exponents = 1.3 / 2, 1.3 - 2
    got = scheme.double().reweight(graph).detach()
    order = other_patches(VALUES).tolist()
    for b, h, i, j in torch.cartesian_prod(*(torch.arange(k) for k in got.shape)).tolist():
        metric = graph.metric[h]
        k = order[j] if sees == "other_patch" else j
        e = graph.weight[b, h, : i + 1, k].sum()
        query = 0 * graph.query[b, h, i] if sees == "closed_form" else graph.query[b, h, i]
        x = query - graph.value[b, h, k] / e.sqrt()  # query degrees are 1
        r = 1.0 if sees == "nothing" else float(x @ metric @ x) ** 0.5
        r /= 2.2 if sees == "oracle" and relevant[b, i, j] else 1.0
        want = float(graph.weight[b, h, i, j]) ** exponents[0] * r ** exponents[1]
        assert float(got[b, h, i, j]) == pytest.approx(want, rel=1e-6)


def test_arms_that_must_equal_others(study):
    graph = graph_of()
    pgnn = SCHEMES["pgnn"](p=1.5, mu=0.1).double()
    natural = Distances("natural").double()
    assert torch.equal(natural(graph), pgnn(graph))
    oracle = Distances("oracle").double()
    oracle.shown = Told(torch.zeros(2, 5, VALUES, dtype=torch.bool))
    assert torch.equal(oracle(graph), natural(graph)), "no patch is relevant"
    plain = SCHEMES["pgnn"](p=2.0, mu=0.1, learn_p=False).double()(graph)  # weights M
    for sees in SEES:
        free = Distances(sees, free=True).double()
        free.shown = oracle.shown
        torch.testing.assert_close(free.reweight(graph), graph.weight, atol=1e-12, rtol=1e-6)
        torch.testing.assert_close(free(graph), plain, atol=1e-7, rtol=1e-6)
    only_m = Distances(**METHODS["only_m"].fixed).double()
    torch.testing.assert_close(only_m(graph), plain)


def test_another_patch_is_another_one():
    order = other_patches(65)
    assert order[0] == 0, "[CLS] keeps its distance"
    place, seen = 1, set()
    while place not in seen:
        seen.add(place)
        place = int(order[place])
    assert seen == set(range(1, 65)), "one cycle through all patches"


@pytest.mark.parametrize("sees", ["other_patch", "closed_form"])
def test_nothing_leaks_from_later_words(sees):
    """And past degrees are used as a cache leaves them."""
    graph, scheme = graph_of(), Distances(sees).double()
    other = replace(graph, query=graph.query.clone(), weight=graph.weight.clone())
    other.query[:, :, 3:] += 1
    other.weight[:, :, 3:] = graph_of(seed=1).weight[:, :, 3:]
    whole = scheme(graph)
    assert torch.equal(scheme(other)[:, :, :3], whole[:, :, :3])
    first, last = (
        replace(graph, query=graph.query[:, :, part], weight=graph.weight[:, :, part])
        for part in (slice(3), slice(3, 5))
    )
    last = last.following(first.degree_after())
    torch.testing.assert_close(scheme(last), whole[:, :, 3:])


# ---- adapters ---------------------------------------------------------------------------------------------


def test_arms_differ_in_cross_attention_only(study):
    first = None
    for arm in study.ARMS:
        tuned = adapter_of(study, arm.name, small_family())
        layers = tuned.model.base_model.layers()
        assert {name: type(x.scheme).__name__ for name, x in layers.items() if "cross" not in name} == {
            "text_decoder.bert.encoder.layer.0.attention.self": "GCN"
        }
        weights = {name: x.detach() for name, x in tuned.parameters().items() if ".scheme." not in name}
        first = first or weights
        assert weights.keys() == first.keys()
        assert all(torch.equal(weights[name], first[name]) for name in weights)


def test_the_oracle_knows_what_words_name_and_questions_ask_for(study):
    """As the heterophily command knows it."""
    for task in ("caption", "vqa"):
        examined = source("--task", task, "--examples", 6, "--layers", "*3.cross*")
        regions, shown = Regions(examined.samples), study.Shown(examined.family)
        for batch, graphs in examined.graphs():
            (found,) = (regions(batch, name, graph) for name, graph in graphs.items())
            want = torch.stack([region.relevant for region in found.values()]).any(0)
            got = shown.inputs(batch.samples)["relevant"]
            assert got.any() and torch.equal(got, want)


@pytest.mark.parametrize("task", ["caption", "vqa"])
@pytest.mark.parametrize("arm", ["oracle_free", "other_patch"])
def test_beams_with_a_cache_see_what_a_whole_pass_sees(arm, task, study):
    """Each step's logits are those of a pass over the text so far."""
    samples = task_samples(task, "mini_blip", "validation", limit=4)
    family = load_family(None)
    tuned = adapter_of(study, arm, family)
    for name, adapter in tuned.model.base_model.layers().items():
        adapter.join.share.set(0.7)
        if "cross" in name and arm == "oracle_free":
            adapter.scheme.b.logit.set(-2.0)
            shown = adapter.scheme.shown
    decoder, texts, logits = family.model.text_decoder, [], []
    prepare = decoder.prepare_inputs_for_generation

    @functools.wraps(prepare)
    def prepared(input_ids, **options):
        texts.append(input_ids)
        return prepare(input_ids, **options)

    decoder.prepare_inputs_for_generation = prepared
    hook = decoder.register_forward_hook(lambda module, args, output: logits.append(output.logits[:, -1]))
    family.generate(samples, Decoding(max_new_tokens=8, num_beams=3))
    hook.remove()
    assert len(texts) == len(logits) > 1
    padding, begin = family.tokenizer.pad_token_id, texts[0].shape[1]
    for ids, got in zip(texts, logits):
        beams = len(ids) // len(samples)
        mask = (ids != padding).long()
        mask[:, begin:] = 1
        batch = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        states = family.image_states(family.image_inputs(samples)).repeat_interleave(beams, 0)
        if arm == "oracle_free":
            shown._relevant = shown.of_texts(samples, ids, [begin] * len(ids))
        with torch.no_grad():
            want = decoder_logits(family.model, states, batch)[:, -1]
        torch.testing.assert_close(got, want, atol=2e-4, rtol=1e-3)


def test_answers_that_are_ranked_are_refused(study):
    family = small_family()
    adapter_of(study, "oracle", family)
    with pytest.raises(UserError, match="remove answering=rank"):
        family.model.text_decoder(
            input_ids=torch.tensor([[5]]), encoder_hidden_states=family.blank_image()[None]
        )


def test_contrast_of_the_placebo_and_of_the_oracle(study):
    """In the layer of the shipped checkpoint whose own distances have next to none. Factor 2.2 alone makes
    (2.2² - 1) / (2.2² + 1) = 0.66."""
    examined = source("--task", "caption", "--examples", 48, "--layers", "*2.cross*")
    regions, found = Regions(examined.samples), {"other_patch": [], "oracle": []}
    for batch, graphs in examined.graphs():
        for name, graph in graphs.items():
            region = regions(batch, name, graph)["named region"]
            edges = edges_of(graph)
            degrees = rsqrt(edges.query_degree()), rsqrt(edges.value_degree("sum"))
            for sees, values in found.items():
                scheme = Distances(sees)
                scheme.shown = Told(region.relevant)
                square = scheme.log_square(edges, edges.query, edges.value, *degrees).exp()
                values.append(Measured(square).contrast(graph, region).contrast)
    mean = {sees: float(torch.stack(values).nanmean()) for sees, values in found.items()}
    assert abs(mean["other_patch"]) < 0.05 and abs(mean["oracle"] - 0.66) < 0.07, mean


# ---- the preset -------------------------------------------------------------------------------------------


def test_the_preset_runs_each_arm_on_twelve_checkpoints_with_two_seeds(study):
    plan = plan_table(load_preset("experiments/studies/distances.yaml"))
    assert set(plan.rows) == {arm.name for arm in study.ARMS} | {"frozen"}
    for name, cells in plan.rows.items():
        seeds = {(cell.task, cell.model[-3:], cell.seed) for cell in cells}
        assert len(seeds) == 2 * (12 if name == "frozen" else 24)
        assert all(int(model) == 104 + seed % 12 for _, model, seed in seeds)
        steps = {(cell.task, cell.recipe.steps) for cell in cells if cell.recipe is not None}
        assert steps == (set() if name == "frozen" else {("caption", 800), ("vqa", 500)})
    assert TASKS["caption"].selects == "caption.scene"
