"""What the readers of question files share: lists of flat records, and answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from sys import intern

from attngraph.errors import UserError
from experiments.datasets.dataset import Reader
from experiments.datasets.example import Example
from experiments.datasets.faults import Faults
from experiments.datasets.pictures import Pictures
from experiments.datasets.reading import Unique, field
from experiments.datasets.streams import records

ANNOTATORS = 10  # answers to a question of VQA v2 and VizWiz


class ListReader(Reader):
    """Reads files that hold a list of records, an example each.

    Attributes:
        names: split -> the files that it is read from, relative to the data set's folder.
        folders: split -> the folders of its images, likewise.
        key: the field that no two records may share; None where records have no key.
    """

    names: Mapping[str, tuple[str, ...]]
    folders: Mapping[str, tuple[str, ...]]
    key: str | None = None

    def files(self, root: Path, split: str) -> list[Path]:
        return [root / name for name in self.names[split]]

    def image_folders(self, root: Path, split: str) -> list[Path]:
        return [root / name for name in self.folders[split]]

    def examples(self, root: Path, split: str, faults: Faults) -> Iterator[Example]:
        pictures = Pictures(root)
        folders = [path.relative_to(root).as_posix() for path in self.image_folders(root, split)]
        for file in self.files(root, split):
            ids = Unique(file, self.key or "")
            for where, record in records(file):
                with faults.leave_out():
                    if self.key is not None:
                        ids.add(field(record, self.key, (int, str), file, where), where)
                    yield self.example(record, split, folders, pictures, file, where)

    @abstractmethod
    def example(
        self, record: object, split: str, folders: Sequence[str], pictures: Pictures, file: Path, where: str
    ) -> Example:
        """The example of a record.

        Raises:
            UserError: the record is damaged.
        """


def answers(record: object, file: Path, where: str, least: int = ANNOTATORS) -> tuple[str, ...]:
    """The texts in a record's ``answers``, a list of ``{"answer": text, ...}``. An annotator's answer may be
    the empty text.

    Raises:
        UserError: they are no such list, or fewer than ``least``.
    """
    try:
        texts = tuple([answer["answer"] for answer in record["answers"]])  # type: ignore[index]
        "".join(texts).encode()
        texts = tuple(map(intern, texts))  # few answers are said to many questions
    except (KeyError, TypeError, UnicodeEncodeError):  # the slow way names what is wrong
        texts = tuple(
            str(field(answer, "answer", str, file, f"{where}.answers[{place}]"))
            for place, answer in enumerate(field(record, "answers", list, file, where))  # type: ignore
        )
    return enough(texts, "answers", file, where, least)


def answer_texts(record: object, name: str, file: Path, where: str, least: int) -> tuple[str, ...]:
    """The texts in the field ``name``, a list of texts.

    Raises:
        UserError: they are no such list, or fewer than ``least``.
    """
    given = field(record, name, list, file, where)
    numbered = {f"{name}[{place}]": text for place, text in enumerate(given)}  # type: ignore[arg-type]
    texts = tuple(str(field(numbered, key, str, file, where)) for key in numbered)
    return enough(texts, name, file, where, least)


def enough(texts: tuple[str, ...], name: str, file: Path, where: str, least: int) -> tuple[str, ...]:
    """The answers, checked to be at least so many.

    Raises:
        UserError: they are fewer.
    """
    if len(texts) < least:
        raise UserError(
            f"{file}: field '{name}' of {where} has {len(texts)} entries, "
            f"{'VQA accuracy' if least > 1 else 'training'} needs at least {least}; give the official file"
        )
    return texts


def number(record: object, name: str, file: Path, where: str) -> int:
    """``record[name]``, checked to be a whole number.

    Raises:
        UserError: it is missing or something else.
    """
    if type(record) is dict and type(record.get(name)) is int:  # as it is a million times
        return record[name]
    return int(field(record, name, int, file, where))  # type: ignore[call-overload]
