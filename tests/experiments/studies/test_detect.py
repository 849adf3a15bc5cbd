"""Detectors of wrong answers: the null keeps what it says, features and the GNN equal brute force, detectors
find what was planted and nothing else, AUROC and intervals equal other packages', runs continue."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from attngraph import capture
from attngraph.errors import UserError
from attngraph.experiments.base.arguments import asked
from attngraph.experiments.base.shipped import CHECKPOINTS
from attngraph.experiments.commands import detect as command
from attngraph.experiments.commands.options import DetectOptions
from attngraph.experiments.data.example import Example
from attngraph.experiments.inspect.source import task_samples
from attngraph.experiments.models import load_family
from attngraph.experiments.models.family import Decoding
from attngraph.experiments.models.ranking import Ranking
from attngraph.experiments.studies import detect as studies
from attngraph.experiments.studies import detect_report
from attngraph.experiments.studies.detect import (
    BATCH,
    DETECTORS,
    KIND,
    LEAST,
    PERMUTED,
    PROBABILITY,
    Edges,
    GraphNetwork,
    Graphs,
    Part,
    View,
    answer,
    detect,
    heuristics,
    laplacian_eigenvalues,
    permuted,
    singular_values,
    spectrum,
)
from attngraph.experiments.studies.detect_report import Areas, auroc, outcome, summarise

NAMES = ["a", "b", "c", "d"]


@pytest.fixture
def graphs() -> Graphs:
    """Four examples with different numbers of queries, one of which lacks values that others have."""
    random = torch.Generator().manual_seed(0)
    b, c, n, m = 4, 3, 6, 12
    queries, begins = torch.tensor([6, 4, 1, 5]), torch.tensor([3, 0, 0, 4])
    seen = torch.ones(b, m, dtype=torch.bool)
    seen[1, [2, 7]] = False
    rows = torch.arange(n) < queries[:, None]
    visible = torch.ones(n, n, dtype=torch.bool).tril() & rows[:, :, None]

    def weights(mask: torch.Tensor) -> torch.Tensor:
        logits = 2 * torch.randn(b, c, n, mask.shape[-1], generator=random, dtype=torch.float64)
        return logits.masked_fill(~mask[:, None], -torch.inf).softmax(-1).nan_to_num()

    return Graphs(weights(visible), weights(rows[:, :, None] & seen[:, None]), queries, begins, seen)


# ---- a model's graphs --------------------------------------------------------------------------------------


def test_answers_with_their_probabilities_and_graphs():
    """The probability is that of ranking; the graphs are those of prompt and answer without the end token."""
    family = load_family()
    samples = [
        replace(one, answer=None) for one in task_samples("vqa", family.name, "validation", limit=3, seed=3)
    ]
    texts, likelihood, graphs = answer(family, samples, Decoding(max_new_tokens=4))
    assert texts == family.generate(samples, Decoding(max_new_tokens=4))
    for number, (sample, text) in enumerate(zip(samples, texts)):
        scores = family.rank([sample], Ranking((text,))).scores
        torch.testing.assert_close(likelihood[number], scores[0, 0], atol=1e-4, rtol=0)
        prompt, words = (family.tokenizer.tokenize(part) for part in (sample.prompt, text))
        assert graphs.begins[number] == len(prompt)
        assert graphs.queries[number] == 1 + len(prompt) + len(words)
        inputs = family.batch([replace(sample, answer=text)]).inputs
        read = capture(family.model, inputs, layers="text_decoder*")
        one = graphs.example(number)
        own, cross = (
            torch.cat([graph.weight for graph in read.values() if graph.kind == kind], 1)
            for kind in ("self", "cross")
        )
        torch.testing.assert_close(one.own, own[:, :, :-1, :-1], atol=1e-5, rtol=0)
        torch.testing.assert_close(one.cross, cross[:, :, :-1], atol=1e-5, rtol=0)


# ---- the null ----------------------------------------------------------------------------------------------


def test_permuted_rows_have_the_same_weights(graphs):
    """So their sums and entropies are the same, exactly; and nothing goes where no edge may be."""
    null = permuted(graphs, NAMES, 0)
    for before, after in ((graphs.own, null.own), (graphs.cross, null.cross)):
        ordered = [weight.sort(-1).values for weight in (before, after)]
        assert torch.equal(*ordered)
        assert torch.equal(*(weight.sum(-1) for weight in ordered))
        assert torch.equal(*(torch.special.entr(weight).sum(-1) for weight in ordered))
        assert not torch.equal(before, after)
    assert torch.equal(null.own, null.own.tril())
    assert not null.cross[1, :, :, ~graphs.seen[1]].any()


def test_one_permutation_moves_all_channels(graphs):
    double = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)[:, None, None]
    same = replace(graphs, own=graphs.own[:, :1] * double, cross=graphs.cross[:, :1] * double)
    null = permuted(same, NAMES, 0)
    assert torch.equal(null.own, null.own[:, :1] * double)
    assert torch.equal(null.cross, null.cross[:, :1] * double)


def test_permutations_follow_from_seed_and_name_and_are_uniform(graphs):
    for number, name in enumerate(NAMES):
        alone = permuted(graphs.example(number), [name], 5)
        together = permuted(graphs, NAMES, 5).example(number)
        assert torch.equal(alone.own, together.own) and torch.equal(alone.cross, together.cross)
    assert not torch.equal(permuted(graphs, NAMES, 4).cross, permuted(graphs, NAMES, 5).cross)
    count = 1200
    one = torch.tensor([[1.0, 0, 0], [0.4, 0.6, 0], [0.1, 0.2, 0.7]]).expand(count, 1, 3, 3)
    many = Graphs(
        one, one, torch.full((count,), 3), torch.ones(count).long(), torch.ones(count, 3, dtype=torch.bool)
    )
    rows = permuted(many, [str(k) for k in range(count)], 0).own[:, 0, 2]
    _, found = rows.unique(dim=0, return_counts=True)
    assert len(found) == 6 and (abs(found - count / 6) < 4 * (count * 5 / 36) ** 0.5).all()


# ---- features ----------------------------------------------------------------------------------------------


def test_eigenvalues_and_singular_values(graphs):
    count = 4
    eigenvalues, singular = laplacian_eigenvalues(graphs, count), singular_values(graphs, count)
    for number, n in enumerate(graphs.queries.tolist()):
        one = graphs.example(number)
        for channel in range(3):
            attention, cross = one.own[0, channel], one.cross[0, channel]
            degree = torch.stack([attention[j:, j].mean() for j in range(n)])
            expected = torch.zeros(2, count, dtype=torch.float64)
            found = torch.linalg.eigvals(degree.diag() - attention).real.sort(descending=True).values[:count]
            expected[0, : len(found)] = found
            normal = cross / (cross.sum(1, keepdim=True) * cross.sum(0, keepdim=True)).sqrt()
            first, *found = torch.linalg.svdvals(normal)[: count + 1]
            assert first == pytest.approx(1)
            expected[1, : len(found)] = torch.tensor(found)
            torch.testing.assert_close(eigenvalues[number, channel], expected[0])
            torch.testing.assert_close(singular[number, channel], expected[1], atol=1e-7, rtol=0)


def test_heuristics_equal_loops(graphs):
    found = heuristics(graphs).view(4, 15, 3)
    for number, n in enumerate(graphs.queries.tolist()):
        one, begins = graphs.example(number), int(graphs.begins[number])
        for channel in range(3):
            own, cross = one.own[0, channel].numpy(), one.cross[0, channel].numpy()
            expected = []
            columns = [own.diagonal()]
            for weight in (own, cross):
                columns.append(np.array([-sum(w * np.log(w) for w in row if w > 0) for row in weight]))
                columns += [weight.max(1), weight[:, 0]]
            for column in columns:
                expected += [column.mean(), column[begins:].mean()]
            expected.append(np.linalg.slogdet(own)[1] / n)
            np.testing.assert_allclose(found[number, :, channel], expected, rtol=1e-9)


def test_padding_and_batches_change_nothing(graphs):
    torch.manual_seed(0)
    network = GraphNetwork(3).double()
    edges = Edges.of(graphs)
    scores = network(edges)
    for number in range(4):
        one = graphs.example(number)
        for features in (heuristics, spectrum):
            torch.testing.assert_close(features(one)[0], features(graphs)[number], atol=1e-7, rtol=0)
        torch.testing.assert_close(network(Edges.of(one))[0], scores[number])
    again = Edges.joined([Edges.of(graphs), edges])
    parts = torch.cat([network(batch) for batch in again.batches(3)])
    torch.testing.assert_close(parts, scores.repeat(2))


def test_network_equals_loops(graphs):
    """Which way messages go, which nodes have which role, and which edges count."""
    torch.manual_seed(0)
    network = GraphNetwork(3).double()
    scores = network(Edges.of(graphs))
    for number, n in enumerate(graphs.queries.tolist()):
        one, begins = graphs.example(number), int(graphs.begins[number])
        m = one.cross.shape[3]
        roles = [0 if k == 0 else 1 if k <= begins else 2 for k in range(n)]
        text, image = network.role.weight[roles], network.role.weight[[3] * m]
        own, cross = one.own[0].permute(1, 2, 0), one.cross[0].permute(1, 2, 0)
        for layer in network.layers:
            sends = [(text, own, False), (image, cross, False), (text, cross, True)]
            sums = []
            for (source, weight, back), relation in zip(sends, network.RELATIONS):
                conv = layer.convs[relation]
                target = image if back else text
                rows = []
                for i in range(len(target)):
                    total = (1 + conv.eps) * target[i]
                    for j in range(len(source)):
                        edge = weight[j, i] if back else weight[i, j]
                        if edge.max() >= LEAST:
                            total = total + (source[j] + conv.lin(edge)).relu()
                    rows.append(conv.nn(total))
                sums.append(torch.stack(rows))
            text, image = (sums[0] + sums[1]).relu(), sums[2].relu()
        torch.testing.assert_close(scores[number], network.readout(text.mean(0))[0])


# ---- detectors ---------------------------------------------------------------------------------------------


def planted(label_seed: int | None = None, seeds: tuple[int, ...] = (0,)) -> dict[str, Part]:
    """Answers that are right where tokens attend to themselves and not to the first token, with the same
    weights in each row: only where edges lead tells. With a seed, labels are shuffled."""
    random = np.random.default_rng(0)
    parts, n, m = {}, 5, 6
    for part, count in {"train": 2 * BATCH + 50, "validation": 120, "test": 160}.items():
        right = np.arange(count) % 2 == 0
        own = np.zeros((count, 2, n, n), np.float32)
        for k in range(count):
            for i in range(n):
                own[k, :, i, i if right[k] else 0] = 1
                if i > 0:
                    heavy = random.uniform(0.6, 0.9, 2)
                    own[k, :, i, i if right[k] else 0] = heavy
                    own[k, :, i, 0 if right[k] else i] = 1 - heavy
        cross = random.dirichlet(np.ones(m), (count, 2, n)).astype(np.float32)
        graphs = Graphs(
            torch.from_numpy(own),
            torch.from_numpy(cross),
            torch.full((count,), n),
            torch.full((count,), 3),
            torch.ones(count, m, dtype=torch.bool),
        )
        examples = [
            Example(f"{part}{k}", Path(f"{part}{k // 2}.png"), "", ("yes",), "ab"[k % 4 // 2])
            for k in range(count)
        ]
        views: dict[int | None, View] = {}
        for seed in (None, *seeds):
            views[seed] = View()
            views[seed].add(graphs if seed is None else permuted(graphs, [one.id for one in examples], seed))
            views[seed].close()
        if label_seed is not None:
            right = np.random.default_rng(label_seed).permutation(right)
        parts[part] = Part(examples, right, random.standard_normal(count), views)
    return parts


def areas(record: dict) -> dict[str, float]:
    test = record["test"]
    return {name: roc_auc_score(test["right"], scores) for name, scores in test["scores"].items()}


NOISE = (
    4 * (161 / (12 * 80 * 80)) ** 0.5
)  # four standard deviations of an AUROC of 80 against 80 under chance


def test_detectors_find_what_was_planted_and_the_null_hides_it(monkeypatch):
    monkeypatch.setattr(studies, "EPOCHS", 15)
    found = areas(detect(planted(), 0))
    for name in DETECTORS:
        assert found[name] > 0.99
        assert abs(found[name + PERMUTED] - 0.5) < NOISE
    assert abs(found[PROBABILITY] - 0.5) < NOISE and found[KIND] == 0.5


def test_shuffled_labels_are_not_found(monkeypatch):
    monkeypatch.setattr(studies, "EPOCHS", 15)
    found = areas(detect(planted(label_seed=1), 0))
    assert all(abs(area - 0.5) < NOISE for area in found.values()), found


# ---- comparisons -------------------------------------------------------------------------------------------


def test_auroc_of_weighted_answers_and_of_pairs_of_one_kind():
    random = np.random.default_rng(0)
    scores, right = random.integers(0, 6, 60) / 2, random.random(60) < 0.4
    weights, kinds = random.poisson(1, (5, 60)), random.integers(0, 3, 60)
    expected = [roc_auc_score(right, scores, sample_weight=one) for one in weights]
    np.testing.assert_allclose(auroc(scores, right, weights), expected)
    for one, area in zip(weights, auroc(scores, right, weights, kinds)):
        won = pairs = 0.0
        for i in np.flatnonzero(right):
            for j in np.flatnonzero(~right & (kinds == kinds[i])):
                won += one[i] * one[j] * ((scores[i] > scores[j]) + (scores[i] == scores[j]) / 2)
                pairs += one[i] * one[j]
        assert area == pytest.approx(won / pairs)
    assert np.isnan(auroc(scores, right, weights * right)).all()


def record(scores: dict[str, np.ndarray], right: np.ndarray, images: list[str], **about) -> dict:
    test = {"image": images, "kind": ["a"] * len(right), "right": right.astype(int).tolist()}
    return {"accuracy": right.mean(), "test": {**test, "scores": scores}, "task": "vqa", "seed": 0} | about


def test_an_image_with_several_questions_counts_once():
    random = np.random.default_rng(0)
    right = random.random(80) < 0.5
    scores = {"x": random.standard_normal(80) + right}
    once = Areas([record(scores, right, [f"{k:02d}" for k in range(80)], weights="w")])
    images = [f"{k // 2:02d}" for k in range(160)]
    twice = Areas([record({"x": scores["x"].repeat(2)}, right.repeat(2), images, weights="w")])
    assert once.by_checkpoint("x")["w"] == pytest.approx(twice.by_checkpoint("x")["w"])
    assert once.mean("x")["low"] == pytest.approx(twice.mean("x")["low"])


def test_comparisons_over_checkpoints(monkeypatch):
    """One detector is better on real graphs, one is the same, one is better in half of the checkpoints."""
    monkeypatch.setattr(detect_report, "REPLICATES", 100)
    random = np.random.default_rng(0)
    records = []
    for k in range(8):
        right = random.random(400) < 0.5
        base, noise = right + random.standard_normal(400), random.standard_normal(400)
        swing = right * (2.0 if k % 2 else 0) + noise
        pairs = {
            "heuristics": (2 * right + noise, base),
            "spectrum": (base, base),
            "gnn": (swing, right + noise),
        }
        scores = {PROBABILITY: base, KIND: np.zeros(400)}
        for name, (real, null) in pairs.items():
            scores |= {name: real, name + PERMUTED: null, f"{name} with probability": base}
        records.append(record(scores, right, [f"{i}" for i in range(400)], weights=str(k)))
    lines = {
        line["detector"]: line for line in summarise(records)["comparisons"] if line["question"] == "edges"
    }
    assert [lines[name]["outcome"] for name in DETECTORS] == ["higher", "tie", "undecided"]
    assert lines["heuristics"]["low"] > 0.05 and lines["gnn"]["high"] > 0.05 > -0.05 > lines["gnn"]["low"]
    assert outcome({"p_holm": 0.01, "estimate": -0.1, "tie": False}) == "lower"
    assert outcome({"p_holm": 0.06, "estimate": 0.1, "tie": False}) == "undecided"


# ---- the command -------------------------------------------------------------------------------------------


def run(out: Path, *words: str) -> dict[str, bytes]:
    """Runs the command, and returns what it wrote."""
    assert command.run(asked(DetectOptions, ["--out", str(out), *words])) == 0
    return {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}


def test_a_run_that_was_stopped_continues_to_the_same_bytes(tmp_path, monkeypatch, capsys):
    seen = []

    def look(family, task, data, seeds, doing):
        seen.append((task.name, [*seeds]))
        return planted(seeds=tuple(seeds))

    monkeypatch.setattr(detect_report, "REPLICATES", 20)
    monkeypatch.setattr(studies, "EPOCHS", 1)
    monkeypatch.setattr(command, "look", look)
    monkeypatch.setattr(command, "write_scenes", lambda *_: None)
    words = ("--tasks", "vqa", "--examples", "40")
    whole = run(tmp_path / "a", *words)
    lost = next((tmp_path / "a" / "cells").rglob("seed1.json"))
    lost.unlink()
    capsys.readouterr()
    assert command.run(asked(DetectOptions, ["--out", str(tmp_path / "a"), *words, "--dry-run"])) == 0
    assert "seed 0, finished\nmini-blip  vqa  seed 1\n" in capsys.readouterr().out
    assert run(tmp_path / "a", *words) == whole
    assert seen == [("vqa", [0, 1]), ("vqa", [1])]
    with pytest.raises(UserError, match=r"seed0\.json has other settings \(data_seed\)"):
        run(tmp_path / "a", *words, "--seed", "1", "--dry-run")


@pytest.mark.slow
def test_the_shipped_models_from_beginning_to_end(tmp_path, monkeypatch, capsys):
    """Two checkpoints on both tasks; again in one more call for each seed."""
    monkeypatch.setattr(studies, "EPOCHS", 2)
    monkeypatch.setattr(detect_report, "REPLICATES", 100)
    other = tmp_path / "other"
    other.mkdir()
    for file in (CHECKPOINTS / "mini-mplug").iterdir():
        (other / file.name).symlink_to(file)
    words = ("--models", "mini-blip", str(other), "--examples", "120", "--seed", "3")
    whole = run(tmp_path / "a", *words)
    assert {"results.json", "detect.md", "detect.png", "run.json"} < {*whole}
    for seed in ("1-1", "0-1"):
        again = run(tmp_path / "b", *words, "--seeds", seed)
    del again["run.json"], whole["run.json"]
    assert again == whole
    assert "real − permuted edges" in capsys.readouterr().out
