"""Reads VQA v2 (Goyal et al. 2017, https://visualqa.org) from its official question and annotation files."""

from pathlib import Path
from typing import NamedTuple

from attngraph.errors import UserError
from experiments.datasets.example import Example
from experiments.datasets.reading import Images, Unique, field, read_json, shown, text_field
from experiments.metrics.vqa import FEWEST_ANSWERS


class _Annotation(NamedTuple):
    """What a question's annotation says, and where it stands in its file."""

    where: str
    image_id: int
    kind: str
    answers: tuple[str, ...]


def load(questions_file: Path, annotations_file: Path, image_folder: Path) -> list[Example]:
    """The examples of one split, in the order of the question file.

    Args:
        questions_file: ``v2_OpenEnded_mscoco_*_questions.json``.
        annotations_file: ``v2_mscoco_*_annotations.json`` for the same questions.
        image_folder: holds ``COCO_<subtype>_<image id in 12 digits>`` as .jpg or .png; ``<subtype>`` is the
            question file's ``data_subtype``.

    Raises:
        UserError: a file, field or image is missing or damaged, there are no questions, one is empty, two
            share a ``question_id``, or question and annotation are about different images.
    """
    questions_file, annotations_file = Path(questions_file), Path(annotations_file)
    content = read_json(questions_file)
    subtype = field(content, "data_subtype", str, questions_file, "the file")
    annotated = _annotations(annotations_file)
    images, ids = Images(image_folder), Unique(questions_file, "question_id")
    examples = []
    for number, question in enumerate(field(content, "questions", list, questions_file, "the file")):
        where = f"questions[{number}]"
        identity = field(question, "question_id", int, questions_file, where)
        ids.add(identity, where)
        image_id = field(question, "image_id", int, questions_file, where)
        text = text_field(question, "question", questions_file, where)
        if identity not in annotated:
            raise UserError(
                f"{annotations_file}: no annotation with question_id {shown(identity)}, "
                f"which {where} of {questions_file} has; use the annotation file of the same split"
            )
        annotation = annotated[identity]
        if annotation.image_id != image_id:
            raise UserError(
                f"{annotations_file}: {annotation.where} has the image_id {shown(annotation.image_id)}, but "
                f"{where} of {questions_file}, with the same question_id, has {shown(image_id)}; "
                "use the files of the same split"
            )
        image = images.path(f"COCO_{subtype}_{image_id:012d}", questions_file, where)
        examples.append(Example(str(identity), image, text, annotation.answers, annotation.kind))
    if not examples:
        raise UserError(f"{questions_file}: field 'questions' is empty; give the official file")
    return examples


def _annotations(file: Path) -> dict[int, _Annotation]:
    """Question id → annotation."""
    annotated, ids = {}, Unique(file, "question_id")
    for number, annotation in enumerate(field(read_json(file), "annotations", list, file, "the file")):
        where = f"annotations[{number}]"
        answers = tuple(
            field(answer, "answer", str, file, f"{where}.answers[{place}]")
            for place, answer in enumerate(field(annotation, "answers", list, file, where))
        )
        if len(answers) < FEWEST_ANSWERS:
            raise UserError(
                f"{file}: field 'answers' of {where} has {len(answers)} entries, VQA accuracy needs at least "
                f"{FEWEST_ANSWERS}; give the official file"
            )
        kind = field(annotation, "question_type", str, file, where)
        identity = field(annotation, "question_id", int, file, where)
        ids.add(identity, where)
        image_id = field(annotation, "image_id", int, file, where)
        annotated[identity] = _Annotation(where, image_id, kind, answers)
    return annotated
