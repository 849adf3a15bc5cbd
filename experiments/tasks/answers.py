"""Lists of answers to rank, for :class:`experiments.models.ranking.Ranking`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from attngraph.errors import UserError
from experiments.datasets.example import Example
from experiments.datasets.reading import Unique, is_text, read_json, shown
from experiments.tasks.task import majority


def read_answers(file: Path) -> tuple[str, ...]:
    """The answers of a JSON list of texts, such as BLIP's and p-Adapter's ``answer_list.json``, in its order.

    Raises:
        UserError: the file is missing or something else, is empty, or holds an empty answer or one twice.
    """
    file = Path(file)
    content = read_json(file)
    if not isinstance(content, list):
        raise UserError(f"{file}: is {type(content).__name__}, not a list; give a list of answers")
    if not content:
        raise UserError(f"{file}: the list is empty; give a list of answers")
    known = Unique(file, "answer")
    for place, answer in enumerate(content):
        where = f"answer {place}"
        if not isinstance(answer, str):
            raise UserError(f"{file}: {where} is {type(answer).__name__} ({shown(answer)}); write a text")
        if not is_text(answer):
            raise UserError(f"{file}: {where} holds half a character ({shown(answer)}); write it again")
        if not answer.strip():
            raise UserError(f"{file}: {where} is empty; leave it out")
        known.add(answer, where)
    return tuple(content)


def frequent_answers(examples: Sequence[Example], count: int) -> tuple[str, ...]:
    """The ``count`` answers that the most examples agree on, the most frequent first, of equally frequent
    ones the one that comes first; fewer where there are no more.

    An example counts once, with its own most frequent answer, as in the list of 3,129 answers that occur nine
    times or more in VQA 2.0 (``compute_softscore.py`` of github.com/hengyuan-hu/bottom-up-attention-vqa).

    Args:
        examples: of the training split.
        count: 1 or more.
    """
    agreed = Counter(majority(example.references) for example in examples if example.references)
    agreed.pop("", None)
    return tuple(answer for answer, _ in agreed.most_common(count))
