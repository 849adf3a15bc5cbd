"""VQA v2 in all its formats: files as the real ones look, and each fault."""

import json

import pytest

from attngraph.errors import UserError
from experiments.bench.vqa2_files import GROUPS, write_vqa2
from experiments.datasets.dataset import split_examples
from experiments.datasets.faults import Faults
from experiments.datasets.vqa2 import VQA2
from tests.experiments.datasets.tiny_images import save_image

TEN = ["net"] * 7 + ["netting", "mesh", ""]
COCO = {1: "train", 2: "restval", 3: "val", 4: "test"}  # image id -> split


def folder_of(image):
    return "train2014" if image == 1 else "val2014"


def question(identity):
    return {"image_id": identity // 1000, "question": f"What is {identity}?", "question_id": identity}


def annotation(identity, ten=TEN):
    return {
        "question_type": "what is",
        "multiple_choice_answer": ten[0],
        "answers": [
            {"answer": text, "answer_confidence": "maybe", "answer_id": k + 1} for k, text in enumerate(ten)
        ],
        "image_id": identity // 1000,
        "answer_type": "other",
        "question_id": identity,
    }


def write(file, content):
    file.write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path):
    """Official files: two questions an image, images 1 to 4 in train2014 and val2014, 5 in test2015."""
    for part, images in (("train2014", [1]), ("val2014", [2, 3, 4]), ("test2015", [5])):
        ids = [image * 1000 + k for image in images for k in range(2)]
        about = {"info": {}, "data_type": "mscoco", "license": {}, "data_subtype": part}
        asked = {**about, "task_type": "Open-Ended", "questions": [question(k) for k in ids]}
        write(tmp_path / f"v2_OpenEnded_mscoco_{part}_questions.json", asked)
        if part == "test2015":
            dev = {**asked, "data_subtype": "test-dev2015", "questions": asked["questions"][:1]}
            write(tmp_path / "v2_OpenEnded_mscoco_test-dev2015_questions.json", dev)
        else:
            answered = {**about, "annotations": [annotation(k) for k in reversed(ids)]}
            write(tmp_path / f"v2_mscoco_{part}_annotations.json", answered)
        for image in images:
            save_image(tmp_path / part / f"COCO_{part}_{image:012d}.jpg")
    return tmp_path


@pytest.fixture
def karpathy(root):
    images = [{"cocoid": k, "split": split, "filepath": folder_of(k)} for k, split in COCO.items()]
    write(root / "dataset_coco.json", {"images": images, "dataset": "coco"})
    return root


def read(root, split, form=None, faults=None):
    return split_examples(VQA2, root, split, Faults() if faults is None else faults, form)


def ids(examples):
    return [int(example.id) for example in examples]


@pytest.mark.parametrize(
    ("split", "expected"),
    [("train", [1000, 1001]), ("val", [2000, 2001, 3000, 3001, 4000, 4001]), ("trainval", None)],
)
def test_official_splits(root, split, expected):
    examples = read(root, split)
    assert ids(examples) == (expected or [k * 1000 + n for k in (1, 2, 3, 4) for n in (0, 1)])
    first = examples[0]
    assert first.references == tuple(TEN) and first.kind == "what is"
    assert first.groups == {"question type": "what is", "answer type": "other"}
    image = int(first.id) // 1000
    assert first.image == root / folder_of(image) / f"COCO_{folder_of(image)}_{image:012d}.jpg"
    assert first.prompt == f"What is {first.id}?"


def test_test_splits_have_no_answers(root):
    assert ids(read(root, "test")) == [5000, 5001] and ids(read(root, "test-dev")) == [5000]
    (example,) = read(root, "test-dev")
    assert example.references == () and example.image.name == "COCO_test2015_000000000005.jpg"


def test_karpathy_split(karpathy):
    """An image's questions go where its captions go, restval to train; together they are all questions."""
    expected = {"train": [1000, 1001, 2000, 2001], "val": [3000, 3001], "test": [4000, 4001]}
    for split, want in expected.items():
        assert ids(read(karpathy, split)) == want
    assert VQA2.reader(karpathy, "train").name == "karpathy"
    assert ids(read(karpathy, "test", "official")) == [5000, 5001]


def test_made_set_of_the_official_proportions(tmp_path):
    assert sum(group.questions for group in GROUPS) == 658_111
    assert [sum(g.questions for g in GROUPS if g.folder == f) for f in ("train2014", "val2014")] == [
        443_757,
        214_354,
    ]
    root, reader = write_vqa2(tmp_path / "vqa2", share=1e-3), VQA2.reader(tmp_path / "vqa2", "train")
    for split in ("train", "val", "test"):
        examples = read(root, split)
        assert len(examples) == pytest.approx(reader.published[split].records / 1000, abs=1)
        assert len({e.image for e in examples}) == pytest.approx(reader.published[split].images / 1000, abs=1)
        assert all(len(e.references) == 10 and e.image.is_file() for e in examples)


def vl_t5(identity, **more):
    image = identity // 1000
    return {
        "answer_type": "other",
        "img_id": f"COCO_{folder_of(image)}_{image:012d}",
        "label": {"net": 1, "netting": 0.3},
        "question_id": identity,
        "question_type": "what is",
        "sent": f"What is {identity}?",
        **more,
    }


def blip(identity, folder=None, **more):
    folder = folder or folder_of(identity // 1000)
    image = f"{folder}/COCO_{folder}_{identity // 1000:012d}.jpg"
    about = {"question_id": identity, "question": f"What is {identity}?", "image": image, "dataset": "vqa"}
    return about | more


def test_vl_t5(root):
    for split, identity in (("train", 2000), ("val", 3000), ("test", 4001)):
        write(root / f"karpathy_{split}.json", [vl_t5(identity, is_topk_optimal=True)])
    assert VQA2.reader(root, "test").name == "vl-t5"
    (example,) = read(root, "test")
    (official,) = (e for e in read(root, "val", "official") if e.id == "4001")
    assert example == official  # the answers are those of the official file, not made of scores
    for part in ("train2014", "val2014"):
        (root / f"v2_mscoco_{part}_annotations.json").unlink()
    with pytest.raises(UserError, match="test.json: record 0 .*scores are not ten answers; put v2_"):
        read(root, "test")
    for part in ("train2014", "val2014"):  # there, but cut between two records
        write(root / f"v2_mscoco_{part}_annotations.json", {"annotations": []})
    with pytest.raises(
        UserError, match="json beside the file have no annotation with question_id 4001: give"
    ):
        read(root, "test")
    write(root / "karpathy_test.json", [vl_t5(4001, answers=annotation(4001)["answers"])])
    assert read(root, "test") == [official]
    (root / "karpathy_train.json").unlink()  # other readers' train would overlap with this test
    assert not VQA2.readers[1].found(root, "test")
    (root / "karpathy_val.json").unlink()
    with pytest.raises(
        UserError, match="karpathy_train.json, karpathy_val.json missing, which the split 'test'"
    ):
        VQA2.reader(root, "test", "vl-t5")


def test_damage_to_the_annotations_beside_vl_t5s_files(root):
    for split, ids_ in (("train", [1000, 2000, 2001]), ("val", [3000]), ("test", [4001])):
        write(root / f"karpathy_{split}.json", [vl_t5(identity) for identity in ids_])
    file = root / ANNOTATIONS
    change(root, ANNOTATIONS, "answers", [])  # of question 4001
    faults = Faults(None)
    with pytest.raises(UserError, match="no questions"):
        read(root, "test", "vl-t5", faults)
    (fault,) = faults.messages
    assert ANNOTATIONS in fault and "0 entries" in fault
    file.write_text(file.read_text()[:-9])  # damaged as a whole: said once, not of each question
    faults = Faults(None)
    with pytest.raises(UserError, match=f"{ANNOTATIONS}: not valid JSON"):
        read(root, "train", "vl-t5", faults)
    assert len(faults) == 1  # question 4001, which is read before the end


def test_blip(root):
    write(root / "vqa_train.json", [blip(1000, answer=TEN)])
    write(root / "vqa_val.json", [blip(2000, answer=TEN)])
    write(root / "vqa_test.json", [blip(5000, "test2015")])
    assert ids(read(root, "trainval", "blip")) == [1000, 2000]
    write(root / "vg_qa.json", [])
    seven, visual_genome = VQA2.reader(root, "train", "blip").notes(root, "train")
    assert "lack seven of the 658,111" in seven and visual_genome.startswith("vg_qa.json is not read")
    (example,) = read(root, "val", "blip")
    assert example.references == tuple(TEN) and example.kind == "question" and not example.groups
    (example,) = read(root, "test", "blip")
    assert example.references == () and example.image == root / "test2015" / "COCO_test2015_000000000005.jpg"


def test_p_adapter(root):
    for split, identity in (("train", 2000), ("val", 3000), ("test", 4001)):
        write(root / f"vqa_karpathy_{split}.json", [blip(identity, answer=TEN)])
    (example,) = read(root, "test", "p-adapter")
    assert example.id == "4001" and example.references == tuple(TEN)


@pytest.mark.parametrize(
    ("form", "name", "trained", "scored"),
    [
        ("blip", "vqa_{}.json", ["train", "trainval"], ["val"]),
        ("p-adapter", "vqa_karpathy_{}.json", ["train"], ["val", "test"]),
    ],
)
def test_fewer_than_ten_answers_can_be_trained_on_but_not_scored(root, form, name, trained, scored):
    """As in the authors' code, where an answer's weight is its share of those that are there."""
    for split in ("train", "val", "test"):
        write(root / name.format(split), [blip(1000 + len(split), answer=TEN[:3])])
    write(root / name.format("train"), [blip(2000, answer=TEN[:3]), blip(2001, answer=TEN)])
    reader = VQA2.reader(root, "train", form)
    for split in trained:
        assert read(root, split, form)[0].references == tuple(TEN[:3])
        few = len(read(root, split, form)) - 1
        assert f"{few} questions have fewer than ten answers: for training alone" in reader.notes(root, split)
    for split in scored:
        with pytest.raises(UserError, match="record 0 has 3 entries, VQA accuracy needs at least 10;"):
            read(root, split, form)
        assert not any("fewer than ten" in note for note in reader.notes(root, split))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (blip(1000, answer=[]), "'answer' of record 1 has 0 entries, training needs at least 1;"),
        (blip(1000, answer="net"), "'answer' of record 1 is str"),
        (blip(1000, answer=[*TEN[:9], 3]), r"'answer\[9\]' of record 1 is int"),
        (blip(1001, answer=TEN), "record 1 has the question_id 1001, which record 0 has too"),
        (blip(1000, answer=TEN, dataset="vg"), "record 1 is of the data set 'vg'.*remove it"),
        (blip(1000, answer=TEN, question=" "), "'question' of record 1 is empty"),
        (blip(9000, answer=TEN), "no such image as 'COCO_val2014_000000000009.jpg'"),
        (blip(1000, answer=TEN, image="../secret.jpg"), "lies in none of train2014, val2014"),
        (blip(1000, answer=TEN, image="/etc/passwd"), "lies in none of train2014, val2014"),
        (blip(1000, answer=TEN, image="val2014/../../x.jpg"), "lies in none of train2014, val2014"),
        ([], "record 1 is list, not an object"),
    ],
)
def test_faults_of_lists(root, record, message):
    write(root / "vqa_train.json", [blip(1001, answer=TEN), record])
    with pytest.raises(UserError, match=message):
        read(root, "train", "blip")
    faults = Faults(1)
    assert ids(read(root, "train", "blip", faults)) == [1001] and len(faults) == 1


def change(root, name, where, value):
    content = json.loads((root / name).read_text())
    key = "questions" if "questions" in name else "annotations"
    if value is ...:
        del content[key][0]
    elif where is None:
        content[key].append(value)
    else:
        content[key][0][where] = value
    write(root / name, content)


QUESTIONS, ANNOTATIONS = "v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"


@pytest.mark.parametrize(
    ("name", "where", "value", "message", "left"),
    [
        (QUESTIONS, "question", " ", r"questions.json: field 'question' of questions\[0\] is empty", 5),
        (QUESTIONS, "question", "\ud800", "half a character", 5),
        (QUESTIONS, "image_id", 3, r"annotations\[5\] has the image_id 2, but questions\[0\] of .* has 3", 5),
        (
            QUESTIONS,
            None,
            question(4001),
            r"questions\[6\] has the question_id 4001, which q.*\[5\]",
            6,
        ),
        (QUESTIONS, None, question(4002), r"no annotation with question_id 4002, which questions\[6\]", 6),
        (QUESTIONS, ..., ..., r"annotations\[5\] has the question_id 2000, which no question of .* has", 5),
        (QUESTIONS, "question_id", "2000", r"'question_id' of questions\[0\] is str", 5),
        (ANNOTATIONS, "answers", [], r"'answers' of annotations\[0\] has 0 entries, .* at least 10", 5),
        (ANNOTATIONS, "answers", [{"answer": "x"}] * 9, r"annotations\[0\] has 9 entries", 5),
        (ANNOTATIONS, "answers", [{}] * 10, r"annotations\[0\].answers\[0\] has no field 'answer'", 5),
        (ANNOTATIONS, "answers", [{"answer": "\ud800"}] * 10, r"answers\[0\] holds half a character", 5),
        (ANNOTATIONS, "answers", {"answer": "x"}, r"'answers' of annotations\[0\] is dict", 5),
        (ANNOTATIONS, "question_type", None, r"'question_type' of annotations\[0\] is NoneType", 5),
        (ANNOTATIONS, None, annotation(4001), r"annotations\[6\] has the question_id 4001, which .*\[0\]", 6),
        (ANNOTATIONS, None, annotation(4002), r"annotations\[6\] has the question_id 4002, which no", 6),
    ],
)
def test_faults_of_official_files(root, name, where, value, message, left):
    """Each is an error, or left out and counted, once."""
    change(root, name, where, value)
    with pytest.raises(UserError, match=message):
        read(root, "val")
    everything = Faults(None)
    assert len(read(root, "val", faults=everything)) == left
    # An annotation whose question's id is damaged has no question: a second fault.
    assert len(everything) == (2 if where == "question_id" else 1)


def test_missing_images(root):
    (root / "val2014" / "COCO_val2014_000000000003.jpg").unlink()
    with pytest.raises(UserError, match=r"no such image as 'COCO_val2014_000000000003'.*questions\[2\] of"):
        read(root, "val")
    faults = Faults(2)
    assert ids(read(root, "val", faults=faults)) == [2000, 2001, 4000, 4001] and len(faults) == 2


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            {"cocoid": 4, "split": "train", "filepath": "val2014"},
            "cocoid 4, which an earlier image",
        ),
        (
            {"cocoid": 9, "split": "dev", "filepath": "val2014"},
            "'split' of .* is 'dev'; give one of",
        ),
        ({"split": "val", "filepath": "val2014"}, "has no field 'cocoid'"),
        ({"cocoid": 9, "split": "val"}, "has no field 'filepath'"),
        (None, "no image with cocoid 4, which .* is about"),
    ],
)
def test_faults_of_the_karpathy_split(karpathy, image, message):
    images = json.loads((karpathy / "dataset_coco.json").read_text())["images"]
    write(karpathy / "dataset_coco.json", {"images": [*images, image] if image else images[:-1]})
    with pytest.raises(UserError, match=message):
        read(karpathy, "val")


def test_faults_of_another_split_are_left_to_it(karpathy):
    change(karpathy, ANNOTATIONS, "answers", [])  # question 4001, of test
    assert ids(read(karpathy, "val")) == [3000, 3001]
    with pytest.raises(UserError, match="0 entries"):
        read(karpathy, "test")


def test_files_with_a_mark_or_crlf_are_read(root):
    for name in (QUESTIONS, ANNOTATIONS):
        text = json.dumps(json.loads((root / name).read_text()), indent=1).replace("\n", "\r\n")
        (root / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert len(read(root, "val")) == 6


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"questions": [1,]}', "{}".encode("utf-16"), b"\xff", b"[]"]
)
def test_damaged_files(root, content):
    (root / QUESTIONS).write_bytes(content)
    with pytest.raises(UserError, match=QUESTIONS):
        read(root, "val", faults=Faults(None))


def test_no_questions(root):
    write(root / QUESTIONS, {"questions": []})
    with pytest.raises(UserError, match="split 'val' has no questions"):
        read(root, "val")
