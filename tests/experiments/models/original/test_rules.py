"""Rules from names to names, and the account of every tensor."""

from pathlib import Path

import pytest
import torch

from attngraph.errors import UserError
from experiments.models.original.rules import Cut, Leave, Take, Twin, account_of

RULES = (
    Take("blocks.*.norm1.*", "layers.*.first.*"),
    Twin("head.weight", "words.weight"),
    Leave("*_m.**", "a copy"),
    Leave("queue", "a queue"),
    Take("words.weight", "embeddings"),
    Take("text.**", "inner.text.**"),
)
WANTED = {
    "layers.0.first.weight": (2,),
    "layers.10.first.weight": (2,),
    "embeddings": (3, 2),
    "inner.text.a.b": (1,),
}


def account(tensors: dict[str, torch.Tensor], rules=RULES):
    return account_of(tensors, rules, {name: torch.Size(shape) for name, shape in WANTED.items()})


def whole() -> dict[str, torch.Tensor]:
    return {
        "blocks.10.norm1.weight": torch.ones(2),
        "blocks.0.norm1.weight": torch.zeros(2),
        "words.weight": torch.ones(3, 2),
        "head.weight": torch.ones(3, 2),
        "text.a.b": torch.ones(1),
        "blocks_m.0.norm1.weight": torch.ones(7),
        "queue": torch.ones(7),
    }


def test_a_whole_file():
    found = account(whole())
    found.check(Path("x.pth"), "checkpoint")
    assert found.taken == {
        "blocks.10.norm1.weight": "layers.10.first.weight",
        "blocks.0.norm1.weight": "layers.0.first.weight",
        "words.weight": "embeddings",
        "text.a.b": "inner.text.a.b",
    }
    assert found.twins == {"head.weight": "words.weight"}
    assert found.left == {"blocks_m.0.norm1.weight": "a copy", "queue": "a queue"}
    assert found.lines() == [
        "4 used",
        "1 equal to others, which the model shares",
        "1 left out, a copy: blocks_m.0.norm1.weight",
        "1 left out, a queue: queue",
    ]


def test_many_names_are_told_by_their_first_parts():
    copies = {f"{part}_m.{k}": torch.ones(1) for part in ("a", "b") for k in range(9)}
    assert account(copies).lines()[1] == "18 left out, a copy: a_m.*, b_m.*"


def test_every_tensor_has_one_fate():
    tensors = whole() | {"extra": torch.ones(1), "text.c": torch.ones(1)}
    del tensors["blocks.0.norm1.weight"], tensors["text.a.b"]
    found = account(tensors)
    fates = [*found.taken, *found.twins, *found.left, *found.unexpected]
    assert sorted(fates) == sorted(tensors)
    assert found.unexpected == ["extra", "text.c"], "a name that the model does not have is not taken either"
    assert found.missing == ["blocks.0.norm1.weight", "text.a.b"], "in the file's own names"


def test_missing_layers_come_in_order():
    assert account({}).missing == [
        "blocks.0.norm1.weight",
        "blocks.10.norm1.weight",
        "text.a.b",
        "words.weight",
    ]


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda t: t.pop("words.weight"), "^x.pth is no checkpoint: tensors 1 missing: words.weight$"),
        (lambda t: t.update(a=torch.ones(1)), "tensors 1 unexpected: a$"),
        (
            lambda t: t.update({"text.a.b": torch.ones(())}),
            r"1 of another shape or value: text.a.b \(a number, not 1\)$",
        ),
        (
            lambda t: t.update({"head.weight": torch.zeros(3, 2)}),
            r"head.weight \(not equal to words.weight\)$",
        ),
        (lambda t: t.update({"head.weight": torch.ones(2)}), r"head.weight \(not equal to words.weight\)$"),
        (lambda t: t.update({"text.a.b": torch.ones(1).bool()}), r"text.a.b \(bool and no weights\)$"),
        (
            lambda t: t.update({f"x{k}": torch.ones(1) for k in range(9)}),
            "9 unexpected: x0, x1, x2, x3, x4, x5 and 3 more$",
        ),
    ],
)
def test_faults_are_one_line(change, match):
    tensors = whole()
    change(tensors)
    with pytest.raises(UserError, match=match) as error:
        account(tensors).check(Path("x.pth"), "checkpoint")
    assert "\n" not in str(error.value)


def test_two_tensors_for_one_place_are_refused():
    rules = (*RULES, Take("other", "embeddings"))
    found = account(whole() | {"other": torch.ones(3, 2)}, rules)
    assert found.unlike == {"other": "the same as words.weight in the model"}


def test_stars_stand_for_whole_parts():
    found = account({"blocks.0.1.norm1.weight": torch.ones(2), "xblocks.0.norm1.weight": torch.ones(2)})
    assert not found.taken and len(found.unexpected) == 2


def test_a_tensor_that_is_cut():
    """Its parts' shapes add up along the first axis; what is missing or unlike is told by the file's name."""
    names = ("layers.*.q.weight", "layers.*.k.weight")
    rules = (Cut("blocks.*.both", names),)
    wanted = {name.replace("*", "7"): torch.Size((2, 3)) for name in names}

    def cut(**tensors):
        return account_of({name.replace("_", "."): x for name, x in tensors.items()}, rules, wanted)

    found = cut(blocks_7_both=torch.ones(4, 3))
    found.check(Path("x.pth"), "checkpoint")
    assert found.cut == {"blocks.7.both": tuple(wanted)} and found.lines() == ["0 used", "1 used in parts"]
    assert cut().missing == ["blocks.7.both"], "once"
    assert cut(blocks_7_both=torch.ones(6, 3)).unlike == {"blocks.7.both": "6 x 3, not 4 x 3"}
    assert cut(blocks_7_both=torch.ones(4, 3).long()).unlike == {"blocks.7.both": "int64 and no weights"}
    found = cut(blocks_7_both=torch.ones(4, 3), blocks_8_both=torch.ones(4, 3))
    assert found.unexpected == ["blocks.8.both"], "the model has no such layer"
