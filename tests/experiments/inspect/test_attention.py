"""Whose view is drawn, and which logit is asked about: tokens, scores, questions about one object."""

import argparse
from dataclasses import replace

import pytest
import torch

from attngraph import AttentionGraph
from attngraph.errors import UserError
from attngraph.experiments.inspect import attention as views
from attngraph.experiments.inspect.attention import ask
from attngraph.experiments.inspect.words import words_of
from attngraph.experiments.models.batch import Batch, Sample, Text
from attngraph.experiments.scenes.drawing import draw
from attngraph.experiments.scenes.scene import scenes


def sequence(n: int, image: torch.Tensor | str = "text") -> AttentionGraph:
    x = torch.zeros(2, 1, n, 1)
    return AttentionGraph(
        x, x, torch.ones(2, 1, n, n) / n, kind="self", query_modality=image, value_modality=image
    )


def samples(count: int) -> list[Sample]:
    return [
        Sample(str(scene.id), draw(scene), scene=scene) for scene in scenes("test", count, 3, "downstream")
    ]


def test_questions_are_about_one_object_and_answered_truly():
    asked, things = ask(samples(40), seed=0)
    assert len(asked) > 30 and {item.answer for item in asked} > {"red", "circle"}
    for item in asked:
        thing = things[item.name]
        told = thing.shape if "color is" in item.prompt else thing.color
        assert told in item.prompt and item.answer == (
            thing.color if "color is" in item.prompt else thing.shape
        )
        assert sum(told in (other.shape, other.color) for other in item.scene.things) == 1
    assert ask(samples(40), seed=0)[0] == asked and ask(samples(40), seed=1)[0] != asked
    twins = [
        replace(item, scene=replace(item.scene, things=item.scene.things[:1] * 2)) for item in samples(2)
    ]
    with pytest.raises(UserError, match="use more --examples"):
        ask(twins, seed=0)


def text(prompt=None) -> Text:
    """Two examples, padded on the left and on the right."""
    tokens = [["[PAD]", "a", "b", "c"], ["d", "e", "[PAD]", "[PAD]"]]
    padding = torch.tensor([[word == "[PAD]" for word in line] for line in tokens])
    return Text(tokens, torch.tensor([[0, 1, 2, 3], [4, 5, 0, 0]]), padding, padding, prompt)


def batch_of(written: Text) -> Batch:
    return Batch([Sample("one", None), Sample("two", None)], {}, written)


def test_positions_of_tokens():
    names, words, seeing = (
        ["one", "two"],
        words_of(batch_of(text()), sequence(4), 0),
        torch.ones(2, 4, dtype=torch.bool),
    )

    def positions(token, prompt=None, seeing=seeing):
        return views.positions(names, words, token, prompt, seeing).tolist()

    assert positions("first") == [1, 0] and positions("last") == [3, 1] and positions("1") == [2, 1]
    assert positions("answer", torch.tensor([3, 2])) == [2, 1]
    assert positions(
        "first", seeing=torch.tensor([[True, False, True, True], [False, True, True, True]])
    ) == [2, 1]
    with pytest.raises(UserError, match="--tokens 2: example two has only tokens 0 to 1: d e$"):
        positions("2")
    with pytest.raises(UserError, match="unknown; use indices"):
        positions("answer")
    with pytest.raises(UserError, match="--tokens first: no token of example two sees the image"):
        positions("first", seeing=torch.tensor([[True] * 4, [False] * 4]))


def test_the_score_is_the_logit_of_the_next_token_or_of_the_likeliest():
    logits = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))

    def score(place, **output):
        return views.score_at(batch_of(text()), torch.tensor(place), argparse.Namespace(**output)).tolist()

    assert score([1, 0], logits=logits) == [logits[0, 1, 2], logits[1, 0, 5]]
    assert score([3, 1], logits=logits) == [logits[0, 3].max(), logits[1, 1].max()]
    behind = torch.cat([torch.zeros(2, 3, 6), logits], 1)  # an image of three nodes comes before the text
    assert score([1, 0], logits=behind) == [logits[0, 1, 2], logits[1, 0, 5]]
    assert score([1, 0], logits=logits[:, 0]) == [logits[0, 0].max(), logits[1, 0].max()]  # of a classifier
    assert score([1, 0], logits_per_image=logits[0, :2, :2]) == [logits[0, 0, 0], logits[0, 1, 1]]
    for output in ({"logits": logits[:, :3]}, {"logits": None}, {}):
        with pytest.raises(views.NoScore):
            score([1, 0], **output)
