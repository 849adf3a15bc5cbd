"""VQA v2: files as the real ones look, and damaged ones."""

import json
from collections import Counter

import pytest

from attngraph.errors import UserError
from experiments.datasets import vqa_v2
from tests.experiments.datasets.tiny_images import save_image


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
    (example,) = vqa_v2.load(*vqa_files(tmp_path))
    assert example.id == "262148000" and example.image.name == "COCO_val2014_000000262148.jpg"
    assert example.prompt == "Where is he looking?" and example.kind == "where is the"
    assert Counter(example.references) == {"down": 6, "at table": 4}


def test_vqa_errors_name_file_field_and_remedy(tmp_path):
    q, a, images = vqa_files(tmp_path)
    with pytest.raises(UserError, match="absent.json: no such file; .*download"):
        vqa_v2.load(tmp_path / "absent.json", a, images)
    with pytest.raises(UserError, match="nowhere: no such image folder"):
        vqa_v2.load(q, a, tmp_path / "nowhere")
    content = json.loads(q.read_text())
    (images / "COCO_val2014_000000262148.jpg").unlink()
    with pytest.raises(
        UserError, match=r"COCO_val2014_000000262148: no such image.*questions\[0\] of .*q.json.*unpack"
    ):
        vqa_v2.load(q, a, images)
    q.write_text('{"questions": [')
    with pytest.raises(UserError, match="q.json: not valid JSON"):
        vqa_v2.load(q, a, images)
    del content["questions"][0]["image_id"]
    with pytest.raises(UserError, match=r"q.json: questions\[0\] has no field 'image_id'"):
        vqa_v2.load(*vqa_files(tmp_path, questions=content))
    with pytest.raises(UserError, match=r"q.json: the file has no field 'data_subtype'"):
        vqa_v2.load(*vqa_files(tmp_path, questions={"questions": []}))
    with pytest.raises(UserError, match="a.json: no annotation with question_id 262148000.*same split"):
        vqa_v2.load(*vqa_files(tmp_path, annotations={"annotations": []}))
    q, a, images = vqa_files(tmp_path, annotations={"annotations": [{"answers": "yes"}]})
    with pytest.raises(UserError, match=r"a.json: field 'answers' of annotations\[0\] is str"):
        vqa_v2.load(q, a, images)
