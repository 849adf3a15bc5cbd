"""VQA v2: files as the real ones look, and damaged ones."""

import json
from collections import Counter

import pytest

from attngraph.errors import UserError
from experiments.datasets import vqa2
from tests.experiments.datasets.tiny_images import save_image

ABOUT = {"question_id": 262148000, "image_id": 262148, "question_type": "where", "answer_type": "other"}


def vqa_files(tmp_path, questions=None, annotations=None):
    save_image(tmp_path / "val2014" / "COCO_val2014_000000262148.jpg")
    answers = [
        {"answer": text, "answer_confidence": "yes", "answer_id": k + 1}
        for k, text in enumerate(["down"] * 6 + ["at table"] * 4)
    ]
    questions = questions or {
        "info": {},
        "task_type": "Open-Ended",
        "data_type": "mscoco",
        "license": {},
        "data_subtype": "val2014",
        "questions": [{"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000}],
    }
    annotations = annotations or {
        "annotations": [
            {
                "question_type": "where is the",
                "multiple_choice_answer": "down",
                "answers": answers,
                "image_id": 262148,
                "answer_type": "other",
                "question_id": 262148000,
            }
        ]
    }
    (tmp_path / "q.json").write_text(json.dumps(questions))
    (tmp_path / "a.json").write_text(json.dumps(annotations))
    return tmp_path / "q.json", tmp_path / "a.json", tmp_path / "val2014"


def test_reads_the_real_vqa_v2_shape(tmp_path):
    (example,) = vqa2.load(*vqa_files(tmp_path))
    assert example.id == "262148000" and example.image.name == "COCO_val2014_000000262148.jpg"
    assert example.prompt == "Where is he looking?" and example.kind == "where is the"
    assert Counter(example.references) == {"down": 6, "at table": 4}


def test_vqa_errors_name_file_field_and_remedy(tmp_path):
    q, a, images = vqa_files(tmp_path)
    with pytest.raises(UserError, match="absent.json: no such file; .*download"):
        vqa2.load(tmp_path / "absent.json", a, images)
    with pytest.raises(UserError, match="nowhere: no such image folder"):
        vqa2.load(q, a, tmp_path / "nowhere")
    content = json.loads(q.read_text())
    (images / "COCO_val2014_000000262148.jpg").unlink()
    with pytest.raises(
        UserError, match=r"no such image as 'COCO_val2014_000000262148'.*questions\[0\] of .*q.json.*unpack"
    ):
        vqa2.load(q, a, images)
    q.write_text('{"questions": [')
    with pytest.raises(UserError, match="q.json: not valid JSON"):
        vqa2.load(q, a, images)
    del content["questions"][0]["image_id"]
    with pytest.raises(UserError, match=r"q.json: questions\[0\] has no field 'image_id'"):
        vqa2.load(*vqa_files(tmp_path, questions=content))
    with pytest.raises(UserError, match=r"q.json: the file has no field 'data_subtype'"):
        vqa2.load(*vqa_files(tmp_path, questions={"questions": []}))
    with pytest.raises(UserError, match="a.json: no annotation with question_id 262148000.*same split"):
        vqa2.load(*vqa_files(tmp_path, annotations={"annotations": []}))
    q, a, images = vqa_files(tmp_path, annotations={"annotations": [{**ABOUT, "answers": "yes"}]})
    with pytest.raises(UserError, match=r"a.json: field 'answers' of annotations\[0\] is str"):
        vqa2.load(q, a, images)


def test_contradictions_and_repetitions_are_refused(tmp_path):
    q, a, images = vqa_files(tmp_path)
    questions, annotations = json.loads(q.read_text()), json.loads(a.read_text())
    (question,), (annotation,) = questions["questions"], annotations["annotations"]
    for asked, annotated, message in (
        ([], None, r"q.json: field 'questions' is empty"),
        ([{**question, "question": " "}], None, r"q.json: field 'question' of questions\[0\] is empty"),
        (
            [question] * 2,
            None,
            r"q.json: questions\[1\] has the question_id 262148000, which questions\[0\] has",
        ),
        (
            None,
            [annotation] * 2,
            r"a.json: annotations\[1\] has the question_id 262148000, which annotations",
        ),
        (
            None,
            [{**annotation, "image_id": 2}],
            r"a.json: annotations\[0\] has the image_id 2, but questions\[0\] of .* has 262148; use",
        ),
        (
            None,
            [{**annotation, "answers": annotation["answers"][:3]}],
            "'answers' .* has 3 entries, .* at least 4",
        ),
        (
            [{**question, "image_id": 10**4000}],
            [{**annotation, "image_id": 10**4000}],
            "no such image as 'COCO_val2014_1000",
        ),
    ):
        files = vqa_files(
            tmp_path,
            questions={**questions, "questions": [question] if asked is None else asked},
            annotations={"annotations": [annotation] if annotated is None else annotated},
        )
        with pytest.raises(UserError, match=message) as error:
            vqa2.load(*files)
        assert len(str(error.value)) < 600
