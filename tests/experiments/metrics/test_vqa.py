"""VQA accuracy of VQA v2 and of VizWiz: every expected value here was computed by their own evaluators."""

import hashlib
import json

import pytest

from attngraph.experiments.metrics.vqa import (
    CONTRACTIONS,
    VIZWIZ_CONTRACTIONS,
    normalise_answer,
    vizwiz_scores,
    vqa_scores,
)

NORMALISED = [
    # words
    ("The Red Ball.", "red ball"),
    ("a", ""),
    ("TEN dogs", "10 dogs"),
    ("None", "0"),
    ("twelve", "twelve"),
    # line feeds, tabs, outer white space; other white space counts when words are split
    ("  two\tdogs \n", "2 dogs"),
    ("x\x0by\xa0z\u2028a", "x y z"),
    # punctuation: deleted beside a space, else a space
    ("t-shirt", "t shirt"),
    ("t-shirt - blue", "tshirt blue"),
    ("red,blue, green", "redblue green"),
    ("red\x0b-blue", "red blue"),
    ("who? me!you", "who me you"),
    ("{x}[y]", "x y"),
    # a comma between digits anywhere: all marks are deleted, everywhere
    ("1,000 red/blue t-shirt", "1000 redblue tshirt"),
    ("1, 000 red/blue", "1 000 red blue"),
    # other marks stay
    ("50% #1 $5 & * ^ ~ |", "50% #1 $5 & * ^ ~ |"),
    ("10:30", "10:30"),
    ("girl’s", "girl’s"),
    # periods: deleted unless a digit follows, the first 32 of them
    ("2.50.", "2.50"),
    (".5", ".5"),
    ("2:50 p.m.", "2:50 pm"),
    ("." * 35 + "x", "...x"),
    # contractions: the evaluator's table and no other
    ("Dont", "don't"),
    ("wouldntve", "wouldntve"),
    ("wouldnt've", "wouldn't've"),
    ("wouldn'tve", "wouldn't've"),
    ("yall'd've y'alld've y'all'dve", "y'all'd've y'all'd've y'all'd've"),
    ("'ows'at ow's'at 'ow'sat owsat", "'ow's'at 'ow's'at 'ow's'at owsat"),
    ("somebody'd", "somebodyd"),
    ("twas", "'twas"),
    ("Im ive lets its well", "im ive lets its well"),
    # order: numbers before articles before contractions, and none is applied twice
    ("the one", "1"),
    ("a.n", ""),
    ("o.n.e", "1"),
    ("dont.", "don't"),
]
VIZWIZ_NORMALISED = [
    ("1,000 red/blue.", "1000 redblue"),
    # a typographic apostrophe for most, a straight one for eight
    ("dont isnt whats", "don’t isn’t what’s"),
    ("aint arent cant couldve couldnt", "ain't aren't can't could've couldn't"),
    ("weve wheres whove", "we've where's who've"),
    ("don't don’t", "don't don’t"),
    # keys have typographic apostrophes too, but for two
    ("couldnt’ve couldnt've", "couldn’t’ve couldnt've"),
    ("couldn'tve couldn’tve", "couldn’t’ve couldn’tve"),
    ("hadn'tve hadn’tve hadnt’ve", "hadn’t’ve hadn’tve hadn’t’ve"),
    ("somebody’d somebody'd", "somebodyd somebody'd"),
]


def test_normalisation():
    assert [normalise_answer(answer) for answer, _ in NORMALISED] == [said for _, said in NORMALISED]
    found = [normalise_answer(answer, VIZWIZ_CONTRACTIONS) for answer, _ in VIZWIZ_NORMALISED]
    assert found == [said for _, said in VIZWIZ_NORMALISED]


def test_the_tables_are_the_evaluators():
    """The digests are of the evaluators' own tables, less what never acts: capitals and equal spellings."""
    digests = [
        hashlib.sha256(json.dumps([list(item) for item in sorted(table.items())]).encode()).hexdigest()
        for table in (CONTRACTIONS, VIZWIZ_CONTRACTIONS)
    ]
    assert digests == [
        "853d25c89947b7f6d41f6c5f81b2d6c3119927f4b16f557fc1b03af6ef45605e",
        "1b56f4d9fb5f9d43abaf4f338e42b384cafeba26966ca23c8eaf9814b7957343",
    ]


SCORED = [  # prediction, answers, the score of VQA v2, of VizWiz
    # VQA v2 compares unanimous answers as they are, but for outer white space
    ("yes", ["Yes"] * 10, 0.0, 0.0),
    ("Yes", ["Yes"] * 10, 1.0, 0.0),
    ("Yes", ["yes"] * 10, 0.0, 1.0),
    ("the dog", ["dog"] * 10, 0.0, 1.0),
    ("2", ["two"] * 10, 0.0, 0.0),
    (" Yes\n", ["Yes"] * 5 + [" Yes\n"] * 5, 1.0, 0.0),
    ("x y", ["x\ty"] * 5 + ["x\ny"] * 5, 1.0, 0.0),
    ("a  b", ["a b"] * 10, 0.0, 0.0),
    # anything else lets both sides be processed; VizWiz always processes the prediction, no answer
    ("yes", ["Yes"] * 9 + ["yes"], 1.0, 0.3),
    ("dog", ["the dog"] * 9 + ["dog"], 1.0, 0.3),
    ("two", ["two"] * 9 + ["2"], 1.0, 0.3),
    ("t-shirt", ["t-shirt"] * 9 + ["t shirt"], 1.0, 0.3),
    ("", ["a"] * 2 + ["x"] * 8, 0.6, 0.0),
    ("a", [""] * 2 + ["the"] * 8, 1.0, 0.6),
    ("somebodyd", ["somebody'd"] * 3 + ["x"] * 7, 0.9, 0.0),
    ("girl's", ["girl’s"] * 9 + ["x"], 0.0, 0.0),
    # contractions
    ("dont", ["don't"] * 9 + ["dont"], 1.0, 0.0),
    ("dont", ["don’t"] * 9 + ["x"], 0.0, 1.0),
    ("cant", ["can't"] * 9 + ["x"], 1.0, 1.0),
    # 0 to 10 of ten annotators; left out by their place: by value, four and more would score 0
    *(
        ("red", ["red"] * n + ["blue"] * (10 - n), score, score)
        for n, score in enumerate((0.0, 0.3, 0.6, 0.9, *[1.0] * 7))
    ),
]


def test_questions():
    said = {str(k): prediction for k, (prediction, *_) in enumerate(SCORED)}
    given = {str(k): answers for k, (_, answers, *_) in enumerate(SCORED)}
    assert vqa_scores(said, given) == pytest.approx([of_vqa for *_, of_vqa, _ in SCORED], abs=1e-12)
    assert vizwiz_scores(said, given) == pytest.approx([of_vizwiz for *_, of_vizwiz in SCORED], abs=1e-12)


def test_the_order_is_that_of_the_references():
    references = {"b": ["Two.", "2"] * 5, "a": ["the dog", "dog"] * 5, "c": ["cat"] * 10}
    said = {"a": "dog", "b": "2", "c": "dog"}
    assert vqa_scores(said, references).tolist() == [1.0, 1.0, 0.0]
    assert vizwiz_scores(said, references).tolist() == [1.0, 1.0, 0.0]
