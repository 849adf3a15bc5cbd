"""Properties of VQA's and VizWiz's accuracy on any text, and the rules written once more, step by step."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attngraph.experiments.metrics.vqa import (
    CONTRACTIONS,
    VIZWIZ_CONTRACTIONS,
    normalise_answer,
    vizwiz_scores,
    vqa_scores,
)

# Texts of any characters, and texts of what the rules are about.
PARTS = [*"!\"()+,-/;<=>?@[\\]_`{}.:'&%’ \t\n\r\u2028", *"1,000 2.5 .5 five none the an A dont Red t".split()]
texts = st.one_of(st.text(max_size=30), st.lists(st.sampled_from([*PARTS, "٣", "²"])).map("".join))
tables = pytest.mark.parametrize("table", [CONTRACTIONS, VIZWIZ_CONTRACTIONS], ids=["vqa", "vizwiz"])


def slow(answer: str, contractions: dict[str, str]) -> str:
    """The rules in the order of the evaluators, one character after the other."""
    asked = answer.replace("\n", " ").replace("\t", " ").strip()
    numeral = any(re.match(r"\d,\d", asked[k:]) for k in range(len(asked)))
    line = ""
    for character in asked:
        if character not in ';/[]"{}()=+\\_-><@`,?!':
            line += character
        elif not (numeral or f"{character} " in asked or f" {character}" in asked):
            line += " "
    removed, kept = 0, ""
    for k, character in enumerate(line):
        if character == "." and removed < 32 and not re.match(r"\d", line[k + 1 :]):
            removed += 1
        else:
            kept += character
    words = []
    for word in kept.lower().split():
        known = "zero one two three four five six seven eight nine ten".split()
        word = "0" if word == "none" else str(known.index(word)) if word in known else word
        if word not in ("a", "an", "the"):
            words.append(contractions.get(word, word))
    return " ".join(words)


@tables
@given(answer=texts)
@example(answer="." * 40 + "a")
@example(answer="1,000 red/blue - x")
def test_the_rules_once_more(table, answer):
    """Also: words in one line, without articles, number words and most marks."""
    said = normalise_answer(answer, table)
    assert said == slow(answer, table) == " ".join(said.split())
    assert not {"a", "an", "the", "none", "two"} & set(said.split())
    assert not set(said) & set('!"()+,-/;<=>?@[\\]_`{}')


ANSWERS = st.lists(
    st.sampled_from(["red", "Red", "two", "2", "t-shirt", "t shirt", "", "the dog", "dont"]),
    min_size=10,
    max_size=10,
)


@settings(max_examples=60)
@given(prediction=texts, answers=st.one_of(ANSWERS, st.lists(texts, min_size=10, max_size=10)))
def test_scores_are_one_of_five_and_more_agreement_never_lowers_them(prediction, answers):
    own = slow(prediction, VIZWIZ_CONTRACTIONS)
    agrees = [answer == own for answer in answers]
    # 1.0, not 1, at three annotators: from Python 3.12 on, sum rounds mixed numbers in another way
    left_out = [min(sum(agrees[:k] + agrees[k + 1 :]) / 3, 1) for k in range(10)]
    assert vizwiz_scores({"x": prediction}, {"x": answers})[0] == sum(left_out) / 10
    for scores, same in ((vqa_scores, prediction), (vizwiz_scores, own)):
        (score,) = scores({"x": prediction}, {"x": answers})
        assert round(float(score), 9) in (0, 0.3, 0.6, 0.9, 1)
        assert scores({"x": prediction}, {"x": answers[::-1]})[0] == pytest.approx(score)
        # one more annotator gives the very answer
        assert scores({"x": prediction}, {"x": [same, *answers[1:]]})[0] >= score - 1e-9
