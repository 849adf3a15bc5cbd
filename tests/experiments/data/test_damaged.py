"""Each kind of damage is one line that names the file, the record and what to do; ``data check`` lists it,
and what reads the data set afterwards leaves out exactly that."""

import shutil

import pytest

from attngraph.errors import UserError
from attngraph.experiments.cli import main
from attngraph.experiments.data.dataset import DATA_SETS, LIST, split_examples
from attngraph.experiments.data.tables import table
from tests.experiments.data.files import WRITERS, change, dump, load, save_image

QUESTIONS = "vqa2", "v2_OpenEnded_mscoco_val2014_questions.json"
ANSWERS = "vqa2", "v2_mscoco_val2014_annotations.json"
DIVISION = "vqa2", "dataset_coco.json"
KARPATHY = "coco", "dataset_coco.json"
VIZWIZ = "vizwiz_vqa", "Annotations/val.json"
PAIRS = "snli_ve", "snli_ve_dev.jsonl"
TEXTCAPS = "textcaps", "TextCaps_0.1_val.json"
CAPTIONS = "vizwiz_caps", "annotations/val.json"
#: Data set and file, place and value, the message, ids that are left out of the split val: one of each kind.
#: Image 3 of COCO, with the questions 3000 and 3001, is in Karpathy's val.
CHANGES = [
    # the wrong type, at each depth
    (QUESTIONS, "questions.2", None, "questions[2] is NoneType, not an object", "3000"),
    (ANSWERS, "annotations.4.answers.9.answer", 3, "'answers[9]' of annotations[4] is int", "3001"),
    (CAPTIONS, "annotations.0.is_rejected", "no", "'is_rejected' of annotations[0] is str", ""),
    # missing, blank, too few, unknown
    (CAPTIONS, "annotations.1.caption", " ", "'caption' of annotations[1] is empty", ""),
    (DIVISION, "images.2.split", "vall", "'split' of images[2] is 'vall'", "3000 3001"),
    (QUESTIONS, "questions.2.question", " \u3000", "'question' of questions[2] is empty; fill it in", "3000"),
    (KARPATHY, "images.2.sentences.1.raw", "", "'sentences[1]' of images[2] is empty", "103"),
    (VIZWIZ, "1.answers", [], "'answers' of record 1 has 0 entries, at least 10", "VizWiz_val_00000001.jpg"),
    (PAIRS, "1.gold_label", "maybe", "'gold_label' of line 2 is 'maybe'; use ent", "11.jpg#2r1n"),
    (PAIRS, "1.sentence2", "\ud800", "line 2 is not valid JSON (half a character: '\\ud800')", "11.jpg#2r1n"),
    # an id twice
    (QUESTIONS, "questions.3.question_id", 3000, "questions[3] has the question_id of questions[2]", "3001"),
    # records that do not agree
    (ANSWERS, "annotations.4.image_id", 4, "no annotation with question_id 3001 and image_id 3", "3001"),
    (DIVISION, "images.2.cocoid", 9, "questions[2] is about the cocoid 3, which", "3000 3001"),
    (CAPTIONS, "annotations.0.image_id", 99, "annotations[0] is a caption of the image 99", ""),
    # pictures that are not there, or lead out of the folder
    (TEXTCAPS, "data.1.image_id", "a\nb", "train_images: no image 'a\\nb', which data[1]", ""),
    (KARPATHY, "images.2.filepath", "../..", "images[2] has its image in '../..', outside", "103"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNGRAPH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Each data set's files, which no test changes, and the ids in its split val."""
    folder = tmp_path_factory.mktemp("whole")
    for name, write in WRITERS.items():
        write(folder / name)
    return folder, {name: ids(name, folder / name) for name in WRITERS}


def ids(name, root, split="val"):
    return [example.id for example in split_examples(DATA_SETS[name], root, split)]


def damaged(name, whole, tmp_path):
    return shutil.copytree(whole[0] / name, tmp_path / name)


def refused(name, root):
    with pytest.raises(UserError) as error:
        ids(name, root)
    message = str(error.value)
    assert message.isprintable() and len(message) < 900
    return message


@pytest.mark.parametrize("case", CHANGES, ids=lambda case: f"{case[0][0]} {case[1]} {case[2]!r:.20}")
def test_damage_is_one_line_and_can_be_left_out(case, whole, tmp_path, capsys):
    (name, file), place, value, said, lost = case
    root = damaged(name, whole, tmp_path)
    change(root / file, place.split("."), value)
    message = refused(name, root)
    assert said in message and file in message
    assert f"; or skip it: `attngraph data check {name} --root {root} --leave-out` lists" in message
    assert main(["data", "check", name, "--root", str(root), "--leave-out"]) == 1
    assert said in capsys.readouterr().out
    assert [one for one in whole[1][name] if one not in ids(name, root)] == lost.split()
    about = table(DATA_SETS[name], root, "val").about
    assert about.left_out
    if file == DIVISION[1]:
        assert about.unscored == lost.split(), "predictions may have these"


@pytest.mark.parametrize(
    ("where", "content", "said"),
    [
        (KARPATHY, b"", "not valid JSON (Expecting value"),
        (KARPATHY, b"[]", "the file is list, not an object"),
        (VIZWIZ, b"{}", "the file is dict, not a list"),
        (TEXTCAPS, b'{"date": []}', "the file has no field 'data'"),
        (PAIRS, b"\n\n", "has no pairs; use the official file"),
    ],
)
def test_a_file_that_is_damaged_as_a_whole_cannot_be_left_out(where, content, said, whole, tmp_path):
    name, file = where
    root = damaged(name, whole, tmp_path)
    (root / file).write_bytes(content)
    message = refused(name, root)
    assert said in message and file in message and "skip it" not in message
    assert main(["data", "check", name, "--root", str(root), "--leave-out"]) == 1
    assert not (root / LIST).exists() and refused(name, root) == message


def test_a_list_names_records_that_are_whole_and_pictures(whole, tmp_path):
    """It is the user's: what it names is left out, and is no part of the data any more."""
    root = damaged("vqa2", whole, tmp_path)
    before = table(DATA_SETS["vqa2"], root, "train")
    picture = "train2014/COCO_train2014_000000000001.jpg"
    dump(root / LIST, {f"{QUESTIONS[1]}: questions[0]": "silly", picture: "ugly"})
    after = table(DATA_SETS["vqa2"], root, "train")
    assert [example.id for example in after] == ["2001"] and after.about.digest != before.about.digest
    assert after.about.left_out == 3 and after.about.unscored == ["1000", "1001", "2000"]
    (root / LIST).unlink()
    assert table(DATA_SETS["vqa2"], root, "train").about == before.about


def test_pictures_that_cannot_be_decoded_are_listed(whole, tmp_path, capsys):
    root = damaged("textcaps", whole, tmp_path)
    picture = root / "train_images" / "val00000000001.jpg"
    picture.write_bytes(picture.read_bytes()[:-200])
    words = ["data", "check", "textcaps", "--root", str(root), "--leave-out"]
    assert main(words) == 3 and not (root / LIST).exists()  # it was not looked into
    assert main([*words, "--deep"]) == 1
    assert f"{picture}: cannot be decoded" in capsys.readouterr().out
    assert list(load(root / LIST)) == ["train_images/val00000000001.jpg"]
    assert main(words) == 3 and (root / LIST).exists(), "which looked into no picture"
    assert ids("textcaps", root) == ["val00000000000"]
    save_image(picture)
    capsys.readouterr()
    assert main([*words, "--deep"]) == 3 and not (root / LIST).exists(), "nothing is left out any more"
    assert f"{LIST}: removed, as nothing is damaged" in capsys.readouterr().err


def test_a_list_that_is_none(whole, tmp_path, capsys):
    root = damaged("coco", whole, tmp_path)
    words = ["data", "check", "coco", "--root", str(root), "--leave-out"]
    for content in ("[]", '{"a": 1}'):
        (root / LIST).write_text(content)
        assert f"{LIST}: " in refused("coco", root)
        assert main(words) == 2 and (root / LIST).read_text() == content, "somebody's own"
    for option in (["--split", "val"], ["--format", "karpathy"]):
        assert main([*words, *option]) == 2
        assert f"remove {option[0]}" in capsys.readouterr().err
