"""Reads VQA v2 (Goyal et al. 2017, https://visualqa.org) from its official question and annotation files."""

from pathlib import Path

from attngraph.errors import UserError
from experiments.datasets.example import Example
from experiments.datasets.reading import Images, field, read_json


def load(questions_file: Path, annotations_file: Path, image_folder: Path) -> list[Example]:
    """The examples of one split, in the order of the question file.

    Args:
        questions_file: ``v2_OpenEnded_mscoco_*_questions.json``.
        annotations_file: ``v2_mscoco_*_annotations.json`` for the same questions.
        image_folder: holds ``COCO_<subtype>_<image id in 12 digits>`` as .jpg or .png; ``<subtype>`` is the
            question file's ``data_subtype``.

    Raises:
        UserError: a file, field or image is missing or damaged.
    """
    questions_file, annotations_file = Path(questions_file), Path(annotations_file)
    content = read_json(questions_file)
    subtype = field(content, "data_subtype", str, questions_file, "the file")
    annotated = _annotations(annotations_file)
    images = Images(image_folder)
    examples = []
    for number, question in enumerate(field(content, "questions", list, questions_file, "the file")):
        where = f"questions[{number}]"
        identity = field(question, "question_id", int, questions_file, where)
        image_id = field(question, "image_id", int, questions_file, where)
        text = field(question, "question", str, questions_file, where)
        if identity not in annotated:
            raise UserError(
                f"{annotations_file}: no annotation with question_id {identity}, "
                f"which {where} of {questions_file} has; use the annotation file of the same split"
            )
        kind, answers = annotated[identity]
        image = images.path(f"COCO_{subtype}_{image_id:012d}", questions_file, where)
        examples.append(Example(str(identity), image, text, answers, kind))
    return examples


def _annotations(file: Path) -> dict[int, tuple[str, tuple[str, ...]]]:
    """Question id → (question type, answers)."""
    annotated = {}
    for number, annotation in enumerate(field(read_json(file), "annotations", list, file, "the file")):
        where = f"annotations[{number}]"
        answers = tuple(
            field(answer, "answer", str, file, f"{where}.answers[{place}]")
            for place, answer in enumerate(field(annotation, "answers", list, file, where))
        )
        if not answers:
            raise UserError(f"{file}: field 'answers' of {where} is empty; is this the official file?")
        kind = field(annotation, "question_type", str, file, where)
        annotated[field(annotation, "question_id", int, file, where)] = kind, answers
    return annotated
