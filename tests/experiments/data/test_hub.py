"""Data sets of the Hugging Face hub: small ones, written in the columns of the repositories."""

import io
import json
import sys

import pytest
from PIL import Image

from attngraph.errors import UserError
from experiments.data import hub
from experiments.data.check import check
from experiments.data.damaged import LIST
from experiments.data.dataset import DATA_SETS, Counts, DataSet, split_examples
from experiments.data.hub import Columns, Hub, download
from experiments.data.tables import table

datasets = pytest.importorskip("datasets")
TEXT, NUMBER = datasets.Value("string"), datasets.Value("int64")
TEXTS = datasets.Sequence(TEXT)
datasets.disable_progress_bars()


def picture(color="red", kind="JPEG"):
    content = io.BytesIO()
    Image.new("RGB", (8, 6), color).save(content, kind)
    return {"bytes": content.getvalue(), "path": "a.jpg"}


FEATURES = {  # as the cards of the repositories have them
    "textcaps": {
        "question_id": TEXT,
        "question": TEXT,
        "image": datasets.Image(),
        "image_id": TEXT,
        "image_classes": TEXTS,
        "set_name": TEXT,
        "caption_id": datasets.Sequence(NUMBER),
        "caption_str": TEXTS,
        "reference_strs": TEXTS,
    },
    "coco": {"question_id": TEXT, "image": datasets.Image(), "answer": TEXTS, "id": NUMBER},
    "vqa2": {
        "question_type": TEXT,
        "multiple_choice_answer": TEXT,
        "answers": [{"answer": TEXT, "answer_confidence": TEXT, "answer_id": NUMBER}],
        "image_id": NUMBER,
        "answer_type": TEXT,
        "question_id": NUMBER,
        "question": TEXT,
        "image": datasets.Image(),
    },
    "vizwiz_vqa": {
        "question_id": TEXT,
        "image": datasets.Image(),
        "question": TEXT,
        "answers": TEXTS,
        "category": TEXT,
    },
    "snli_ve": {
        "image": datasets.Image(),
        "filename": TEXT,
        "premise": TEXT,
        "hypothesis": TEXT,
        "label": datasets.ClassLabel(names=["entailment", "neutral", "contradiction"]),
        "id": NUMBER,
        "id_image": NUMBER,
    },
}
TEN = [{"answer": "yes", "answer_confidence": "yes", "answer_id": k} for k in range(1, 11)]
ROWS = {
    "textcaps": [
        {"image_id": "00a1", "caption_str": ["A sign. ", "stop"]},
        {"image_id": "00b2", "caption_str": ["beer"], "image": picture("blue")},
    ],
    "coco": [
        {"question_id": "COCO_val2014_000000000042.jpg", "answer": ["a cow", "a cow"], "id": 0},
        {"question_id": "COCO_val2014_000000391895.jpg", "answer": ["a man"], "id": 1},
    ],
    "vqa2": [
        {
            "question_id": 42000 + k,
            "question": "Is it?",
            "answers": TEN,
            "question_type": "is it",
            "answer_type": "yes/no",
        }
        for k in range(2)
    ],
    "vizwiz_vqa": [
        {
            "question_id": f"VizWiz_val_0000000{k}",
            "question": "What?",
            "answers": ["can"] * 10,
            "category": "other",
        }
        for k in range(2)
    ],
    "snli_ve": [
        {"id": 7, "hypothesis": "Two men.", "label": 0},
        {"id": 8, "hypothesis": "No men.", "label": 2},
    ],
}
#: id, prompt, references, kind, groups of the first example
FIRST = {
    "textcaps": ("val", "00a1", "", ("A sign.", "stop"), "caption", {}),
    "coco": ("val2014", "42", "", ("a cow", "a cow"), "caption", {}),
    "vqa2": (
        "val",
        "42000",
        "Is it?",
        ("yes",) * 10,
        "is it",
        {"question type": "is it", "answer type": "yes/no"},
    ),
    "vizwiz_vqa": (
        "val",
        "VizWiz_val_00000000.jpg",
        "What?",
        ("can",) * 10,
        "other",
        {"answer type": "other"},
    ),
    "snli_ve": ("test", "7", "Two men.", ("entailment",), "hypothesis", {"label": "entailment"}),
}


def rows(name, change=lambda rows: None):
    features = FEATURES[name]
    found = [{"image": picture(), **row} for row in ROWS[name]]
    change(found)
    empty = {key: [] if feature == TEXTS else None for key, feature in features.items()}
    return datasets.Dataset.from_list(
        [{**empty, **row} for row in found], features=datasets.Features(features)
    )


def reader_of(name):
    (found,) = [reader for reader in DATA_SETS[name].readers if reader.name == "hub"]
    return found


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNGRAPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def save(name, root, how, data=None):
    split = FIRST[name][0]
    theirs = reader_of(name).sources[split][1]
    data = rows(name) if data is None else data
    if how == "folder":
        data.save_to_disk(root / "hub" / theirs)
    elif how == "folders":
        datasets.DatasetDict({theirs: data, "other": data}).save_to_disk(root / "hub")
    else:
        (root / "hub" / "data").mkdir(parents=True)
        for shard in range(2):
            data.shard(2, shard).to_parquet(root / "hub" / "data" / f"{theirs}-{shard:05d}-of-00002.parquet")
    return split


HOW = ("folder", "folders", "parquet")


@pytest.mark.parametrize(("name", "how"), [(name, HOW[k % 3]) for k, name in enumerate(FIRST)])
def test_reads_the_columns_of_the_repositories(tmp_path, name, how):
    split = save(name, tmp_path, how)
    assert DATA_SETS[name].reader(tmp_path, split).name == "hub"
    first, second = split_examples(DATA_SETS[name], tmp_path, split)
    assert (first.id, first.prompt, first.references, first.kind, first.groups) == FIRST[name][1:]
    assert second.id != first.id
    assert Image.open(first.image).size == (8, 6) and first.image.suffix == ".jpg"


def test_pictures_become_files_once_by_content(tmp_path, cache, monkeypatch):
    def change(rows):
        rows.append({**rows[0], "image_id": "00c3"})
        rows.append({**rows[0], "image_id": "00d4", "image": picture(kind="PNG")})

    save("textcaps", tmp_path, "parquet", rows("textcaps", change))
    examples = list(table(DATA_SETS["textcaps"], tmp_path, "val"))
    red, blue, again, other = (example.image for example in examples)
    assert red.resolve() == again.resolve() != blue.resolve() and other.suffix == ".png"
    assert Image.open(red).getpixel((0, 0))[0] > 200 and Image.open(blue).getpixel((0, 0))[2] > 200
    files = {file: file.read_bytes() for file in (cache / "pictures").rglob("*") if file.is_file()}
    assert len(files) == 3
    monkeypatch.setattr(hub, "write_bytes", lambda *_: pytest.fail("written twice"))
    split_examples(DATA_SETS["textcaps"], tmp_path, "val")
    monkeypatch.undo()
    monkeypatch.setenv("ATTNGRAPH_CACHE", str(cache))
    for file in files:
        file.write_bytes(file.read_bytes()[:100])  # a copy that was cut off is made again
    split_examples(DATA_SETS["textcaps"], tmp_path, "val")
    assert {file: file.read_bytes() for file in files} == files


def test_a_digest_does_not_tell_where_the_cache_is(tmp_path, cache, monkeypatch):
    save("textcaps", tmp_path / "textcaps", "parquet")
    first = table(DATA_SETS["textcaps"], tmp_path / "textcaps", "val")
    moved = cache.rename(tmp_path / "moved")
    monkeypatch.setenv("ATTNGRAPH_CACHE", str(moved))
    again = table(DATA_SETS["textcaps"], tmp_path / "textcaps", "val")
    assert again.about.digest == first.about.digest
    assert all(Image.open(example.image).size == (8, 6) for example in again)


def test_a_folder_that_is_a_link(tmp_path):
    save("textcaps", tmp_path / "deep" / "down" / "real", "folder")
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "down" / "real")
    for _ in range(2):  # from the files, from the table
        for example in table(DATA_SETS["textcaps"], tmp_path / "link", "val"):
            assert Image.open(example.image).size == (8, 6)


def test_splits_without_answers(tmp_path):
    data = rows("textcaps", lambda rows: [row.pop("caption_str") for row in rows])
    data.save_to_disk(tmp_path / "hub" / "test")
    assert [example.references for example in table(DATA_SETS["textcaps"], tmp_path, "test")] == [(), ()]
    data.save_to_disk(tmp_path / "hub" / "val")
    with pytest.raises(UserError, match="'caption_str' of row 0 has 0 entries"):
        table(DATA_SETS["textcaps"], tmp_path, "val")


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("textcaps", {"caption_str": ["b", " "]}, r"'caption_str\[1\]' of row 0 is empty"),
        ("textcaps", {"caption_str": []}, "'caption_str' of row 0 has 0 entries"),
        ("textcaps", {"image_id": "00b2"}, "row 1 has the image_id '00b2', which row 0 has too"),
        ("textcaps", {"image": None}, "'image' of row 0 holds no picture"),
        ("vqa2", {"answers": [*TEN[:9], {"answer": None}]}, r"'answer' of row 0.answers\[9\] is NoneType"),
        ("vizwiz_vqa", {"answers": ["can"] * 9}, "'answers' of row 0 has 9 entries"),
        ("snli_ve", {"label": -1}, "'label' of row 0 is -1, no label"),
    ],
)
def test_faults(tmp_path, name, change, message):
    split = save(name, tmp_path, "folder", rows(name, lambda rows: rows[0].update(change)))
    with pytest.raises(UserError, match=f"hub/.*{message}"):
        split_examples(DATA_SETS[name], tmp_path, split)
    (tmp_path / LIST).write_text(json.dumps(check(DATA_SETS[name], tmp_path, [split]).damaged))
    assert len(split_examples(DATA_SETS[name], tmp_path, split)) == 1


def test_answers_of_annotators_stay_as_they_are(tmp_path):
    """As in the official files: an answer may be empty, and the evaluator decides about space."""
    ten = ["yes "] * 9 + [""]
    data = rows("vqa2", lambda rows: rows[0].update(answers=[{"answer": answer} for answer in ten]))
    split = save("vqa2", tmp_path, "folder", data)
    assert split_examples(DATA_SETS["vqa2"], tmp_path, split)[0].references == tuple(ten)


def test_what_cannot_be_read(tmp_path, monkeypatch, capfd):
    data, data_set = tmp_path / "hub" / "data", DATA_SETS["textcaps"]
    with pytest.raises(UserError, match="TextCaps_0.1_val.json missing"):
        split_examples(data_set, tmp_path, "val")
    with pytest.raises(UserError, match="hub/val/state.json missing"):
        split_examples(data_set, tmp_path, "val", data_set.reader(tmp_path, "val", "hub"))
    save("textcaps", tmp_path, "parquet")
    whole = data / "val-00001-of-00002.parquet"
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="val-00000-of-00002.parquet: cannot be read .*get it again"):
        split_examples(data_set, tmp_path, "val")
    assert not capfd.readouterr().err  # one line, and it is the error's
    whole.unlink()
    with pytest.raises(UserError, match="1 of 2 files of its split are there; get the others"):
        split_examples(data_set, tmp_path, "val")
    whole.write_bytes(content)
    monkeypatch.setenv("ATTNGRAPH_CACHE", str(whole))  # a file, no folder
    with pytest.raises(UserError, match="ATTNGRAPH_CACHE"):
        split_examples(data_set, tmp_path, "val")
    monkeypatch.setenv("ATTNGRAPH_CACHE", str(tmp_path / "cache"))
    rows("coco").save_to_disk(tmp_path / "hub" / "train")
    with pytest.raises(
        UserError, match="no column caption_str, image_id, only question_id, .*lmms-lab/TextCaps"
    ):
        split_examples(data_set, tmp_path, "train")


def test_a_saved_split_that_lacks_a_file(tmp_path):
    save("textcaps", tmp_path, "folder")
    (arrow,) = (tmp_path / "hub" / "val").glob("*.arrow")
    arrow.unlink()
    with pytest.raises(UserError, match="state.json: cannot be read"):
        split_examples(DATA_SETS["textcaps"], tmp_path, "val")


def test_without_the_package(tmp_path, monkeypatch):
    save("textcaps", tmp_path, "folder")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'attngraph\[hub\]'"):
        split_examples(DATA_SETS["textcaps"], tmp_path, "val")


class Elsewhere(DataSet):
    """TextCaps' columns in a folder that stands for a repository."""

    name, title, unit, contents = "elsewhere", "Elsewhere", "captions", ()
    homepage = licence = citation = ""

    def __init__(self, repository):
        columns = Columns(id="image_id", references="caption_str")
        self.readers = (Hub({"val": (str(repository), "val")}, columns, published={"val": Counts(2, 3)}),)


def test_download_keeps_a_split_whole(tmp_path, monkeypatch):
    save("textcaps", tmp_path / "repository", "parquet")
    data_set, root = Elsewhere(tmp_path / "repository" / "hub"), tmp_path / "root"
    with pytest.raises(UserError, match="hub/val/state.json missing"):
        split_examples(data_set, root, "val")  # reading downloads nothing
    monkeypatch.setattr(datasets.Dataset, "save_to_disk", lambda *_: 1 / 0)
    with pytest.raises(UserError, match="split val: cannot be downloaded .*division by zero"):
        download(data_set, root, "val")
    assert not list((root / "hub").iterdir())
    monkeypatch.undo()
    monkeypatch.setenv("ATTNGRAPH_CACHE", str(tmp_path / "cache"))
    assert download(data_set, root, "val") == root / "hub" / "val"
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("downloaded twice"))
    download(data_set, root, "val")
    there = tmp_path / "other" / "hub" / "data"
    there.mkdir(parents=True)
    (there / "val.parquet").touch()  # the repository's own files, got some other way
    assert download(data_set, tmp_path / "other", "val") == there
    examples = split_examples(data_set, root, "val")
    counts = data_set.readers[0].published["val"]
    assert (len(examples), sum(len(example.references) for example in examples)) == (2, 3)
    assert counts == Counts(2, 3)
    with pytest.raises(UserError, match="Elsewhere: no repository of the hub is known for the split 'dev'"):
        download(data_set, root, "dev")
