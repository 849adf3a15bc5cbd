"""Tasks on official files: which splits they take, what they ask and train on, and how they are scored."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from attngraph.errors import UserError
from attngraph.experiments.data.dataset import DATA_SETS
from attngraph.experiments.data.drawn import make_scenes
from attngraph.experiments.data.example import Example
from attngraph.experiments.data.tables import table
from attngraph.experiments.models import Decoding, Ranking
from attngraph.experiments.tasks import TASKS
from attngraph.experiments.tasks.kinds import plain_caption, plain_question
from attngraph.experiments.tasks.official import HELD_OUT, held_out_hash
from attngraph.experiments.tasks.task import SPLITS, kinds_of

OFFICIAL = {name: task for name, task in TASKS.items() if task.data_set}
WITHOUT_TEST = ("vizwiz_vqa", "textcaps", "vizwiz_caps")  # whose test annotations are not public


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("data") / "six", seed=0, size=60)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ATTNGRAPH_CACHE", str(tmp_path_factory.getbasetemp() / "tables"))


@pytest.fixture
def own(folder, tmp_path) -> Path:
    """A copy to be changed, whose pictures are links."""
    return Path(shutil.copytree(folder, tmp_path / "own", copy_function=_copied))


def _copied(source: str, target: str) -> None:
    os.link(source, target) if source.endswith(".jpg") else shutil.copy2(source, target)


def official(data: Path, task: str, split: str, form: str | None = None) -> dict[str, Example]:
    return {e.id: e for e in table(DATA_SETS[task], data / task, split, form=form)}


@pytest.mark.parametrize("name", [name for name in OFFICIAL if name not in WITHOUT_TEST])
def test_splits_are_the_official_ones_where_test_has_annotations(name, folder):
    for split, of in zip(SPLITS, ("train", "val", "test")):
        form = "karpathy" if name == "vqa2" else None
        examples = list(OFFICIAL[name].examples(folder, split))
        assert {e.id: e for e in examples} == official(folder, name, of, form) and examples
        assert all(example.references for example in examples)


@pytest.mark.parametrize("name", ["vizwiz_vqa", "textcaps", "vqa2"])
def test_without_test_annotations_pictures_of_train_are_held_out(name, own):
    (own / "vqa2" / "dataset_coco.json").unlink()
    task, whole = OFFICIAL[name], official(own, name, "train")
    assert {e.id: e for e in task.examples(own, "test")} == official(own, name, "val")
    train, held = task.examples(own, "train"), task.examples(own, "validation")
    assert len(train) + len(held) == len(whole) and len(held)
    assert {e.id: e for e in train} | {e.id: e for e in held} == whole
    pictures = {example.image.name for example in held}
    assert not pictures & {example.image.name for example in train}, "no picture is in both"
    by_hash = {e.image.name for e in whole.values() if held_out_hash(e.image.name) % HELD_OUT == 0}
    assert pictures == by_hash or (not by_hash and len(pictures) == 1)
    assert ", all but one in 20 images" in task.source(own, "train")
    assert ", one in 20 images" in task.source(own, "validation")


def test_one_picture_in_twenty_is_held_out():
    names = [f"VizWiz_train_{k:08d}.jpg" for k in range(20_000)]
    share = np.mean([held_out_hash(name) % HELD_OUT == 0 for name in names])
    assert share == pytest.approx(1 / HELD_OUT, abs=4 * np.sqrt(0.05 * 0.95 / 20_000))


@pytest.mark.parametrize("name", ["vqa2", "vizwiz_caps"])
def test_content_tells_data_apart_wherever_they_lie(name, folder, own):
    task = OFFICIAL[name]

    def content(data, split="test"):
        return task.content(data, split)

    here = content(folder)
    assert here == content(own), "where files lie"
    assert json.loads(json.dumps(here)) == here
    assert here["train"].get("held out") == (False if name == "vizwiz_caps" else None)
    assert here["train"] == content(folder, "validation")["train"] and here != content(folder, "validation")
    part = task.part(own, "train")
    for file in part.reader.files(own / name, part.split):
        file.write_text(file.read_text().replace("ball", "bell").replace("red", "rad"))
    assert content(own)["train"] != here["train"]


def test_questions_and_captions_as_blip_prepares_them():
    assert plain_question(' What "color" is the U.S. flag?') == "what color is the us flag?"
    assert plain_question("What is it? [SEP] STOP") == "what is it? [SEP] stop"  # mPLUG's token is one
    assert plain_caption('A man: "stop!"  #1 (red)~') == "a man stop 1 red"
    assert plain_caption("a " * 40) == " ".join(["a"] * 30)
    shown = Example("1", Path("a.jpg"), "", ("A Dog.", "Two: cats"), "caption")
    prompts = {"blip": "a picture of", "mini_blip": "what does the image describe ?", "mplug": ""}
    assert {whose: OFFICIAL["coco"].prompt(shown, whose) for whose in prompts} == prompts
    assert OFFICIAL["coco"].target(shown, 0.9) == "two cats"


def test_an_answer_is_drawn_as_often_as_annotators_gave_it():
    given = ("no", "yes", "maybe", "yes", "no", "yes", "no", "yes", "yes", "no")
    example = Example("1", Path("a.jpg"), "?", given, "yes/no")
    draws = [OFFICIAL["vqa2"].target(example, k / 1000) for k in range(1000)]
    assert Counter(draws) == {"yes": 500, "no": 400, "maybe": 100} and draws[0] == "yes"


def test_entailment_ranks_its_words_and_questions_the_list_of_the_data(own):
    ranked = OFFICIAL["snli_ve"].answering(own)
    assert isinstance(ranked, Ranking) and set(ranked.answers) == {"correct", "incorrect", "ambiguous"}
    for name in ("vqa2", "vizwiz_vqa"):
        task = OFFICIAL[name]
        assert task.answering(own) == Decoding(10, 3)
        answers = task.answers(own)
        counted = Counter(Counter(e.references).most_common(1)[0][0] for e in task.examples(own, "train"))
        assert set(answers) == set(counted) and counted[answers[0]] == max(counted.values())
        (own / name / "answer_list.json").write_text('["yes", "a red ball"]')
        assert task.answers(own) == ("yes", "a red ball")
    assert OFFICIAL["coco"].answers(own) is None and not OFFICIAL["coco"].ranks


def test_scores_are_broken_down(folder):
    for name, kind in (
        ("vqa2", "answer type: yes/no"),
        ("vizwiz_vqa", "answerable: 0"),
        ("snli_ve", "label: neutral"),
    ):
        task = OFFICIAL[name]
        examples = task.examples(folder, "test")
        said = {example.id: task.target(example, 0.0) for example in examples}
        own = [example for example in examples if kind in kinds_of(example)]
        alone = task.score({example.id: said[example.id] for example in own}, own)
        expected = (pytest.approx(alone.columns[task.selects]), len(own))
        assert task.score(said, examples).kinds[kind] == expected


def test_missing_data_are_named(own, tmp_path):
    """Of a split that is scored alone the training files are not needed."""
    task, root = OFFICIAL["textcaps"], own / "textcaps"
    task.check(own)
    assert task.found(own) and not task.found(tmp_path / "none")
    (train,) = task.part(own, "train").reader.files(root, "train")
    train.unlink()
    assert task.examples(own, "test") and task.source(own, "test") == "val (format official)"
    with pytest.raises(UserError, match=rf"{train.name} missing.*attngraph data layout textcaps"):
        task.check(own)
    (root / "TextCaps_0.1_val.json").unlink()
    with pytest.raises(UserError, match="TextCaps_0.1_val.json missing"):
        task.check(own)
    shutil.rmtree(root)
    for data, said in (
        (own, "no such folder.*attngraph data layout"),
        (None, "use the folder .* --data FOLDER"),
    ):
        with pytest.raises(UserError, match=said):
            task.check(data)


def test_ids_that_the_official_evaluation_leaves_out(own):
    """Captions that are all precanned, pairs without a gold label."""
    file = own / "vizwiz_caps" / "annotations" / "val.json"
    content = json.loads(file.read_text())
    image = content["images"][0]["id"]
    for annotation in content["annotations"]:
        annotation["is_precanned"] |= annotation["image_id"] == image
    file.write_text(json.dumps(content))
    task = OFFICIAL["vizwiz_caps"]
    left_out = task.unscored(own, "test")
    scored = {example.id for example in task.examples(own, "test")}
    assert str(image) in left_out and not left_out & scored
    assert left_out | scored == {str(image["id"]) for image in content["images"]}
    file = own / "snli_ve" / "snli_ve_test.jsonl"
    first, *others = file.read_text().splitlines()
    pair = json.loads(first) | {"gold_label": "-"}
    file.write_text("\n".join([json.dumps(pair), *others]))
    assert OFFICIAL["snli_ve"].unscored(own, "test") == {pair["pairID"]}
    assert OFFICIAL["coco"].unscored(own, "test") == OFFICIAL["vqa2"].unscored(own, "test") == set()


def test_asked_splits_are_read_in_the_format_that_is_scored(own):
    """Karpathy's, which has annotations of its test split; else any that has the split."""
    task, root = OFFICIAL["vqa2"], own / "vqa2"
    official_val = [e.id for e in task.asked(own, "val", "official")]
    for split, of in zip(SPLITS, ("train", "val", "test")):
        assert (
            [e.id for e in task.asked(own, of)] == [e.id for e in task.examples(own, split)] != official_val
        )
    assert task.asked(own, "test-dev"), "of the only format that has it"
    (root / "dataset_coco.json").unlink()
    assert (
        [e.id for e in task.asked(own, "val")] == official_val == [e.id for e in task.examples(own, "test")]
    )


def test_damaged_records_that_are_listed_are_no_part_of_the_data(own):
    task, root = OFFICIAL["vizwiz_vqa"], own / "vizwiz_vqa"
    before, examples = task.content(own, "test"), list(task.examples(own, "test"))
    picture = examples[0].image.relative_to(root).as_posix()
    (root / "damaged.json").write_text(json.dumps({picture: "cut off"}))
    assert list(task.examples(own, "test")) == [e for e in examples if e.image != examples[0].image]
    after = task.content(own, "test")
    assert after["train"] == before["train"] and after["test"]["left out"] == 1
    assert after["test"]["digest"] != before["test"]["digest"]
    assert "1 damaged record skipped" in task.source(own, "test")
    assert task.unscored(own, "test") == {examples[0].id}, "a file of predictions may have it"
