"""Data sets of the Hugging Face hub: small ones, written by its own library in the repositories' columns."""

import io
import json
import sys

import pytest
from PIL import Image

from attngraph.errors import UserError
from attngraph.experiments.data import hub
from attngraph.experiments.data.check import check
from attngraph.experiments.data.dataset import DATA_SETS, LIST, DataSet, Fields, split_examples
from attngraph.experiments.data.hub import Hub, download
from attngraph.experiments.data.tables import table

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()
LABEL = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
TEN = [{"answer": "yes " if k < 10 else "", "answer_confidence": "yes", "answer_id": k} for k in range(1, 11)]
WHAT = {"question": "Is it?", "answers": TEN, "question_type": "is it", "answer_type": "yes/no"}
CAN = {"question": "What?", "answers": ["can"] * 10, "category": "other"}
ROWS = {  # as the cards of the repositories have them, beside the picture
    "textcaps": [
        {"image_id": "00a1", "caption_str": ["A sign. ", "stop"]},
        {"image_id": "00b2", "caption_str": ["beer"]},
    ],
    "coco": [
        {"question_id": "COCO_val2014_000000000042.jpg", "answer": ["a cow", "a cow"]},
        {"question_id": "COCO_val2014_000000391895.jpg", "answer": ["a man"]},
    ],
    "vqa2": [{"question_id": 42000 + k, **WHAT} for k in range(2)],
    "vizwiz_vqa": [{"question_id": f"VizWiz_val_0000000{k}", **CAN} for k in range(2)],
    "snli_ve": [
        {"id": 7, "hypothesis": "Two men.", "label": 0},
        {"id": 8, "hypothesis": "No men.", "label": 2},
    ],
}
KINDS = {"question type": "is it", "answer type": "yes/no"}
OTHER = {"answer type": "other"}
#: split; id, prompt, references, kind, groups of the first example; answers of annotators stay as they are
FIRST = {
    "textcaps": ("val", "00a1", "", ("A sign.", "stop"), "caption", {}),
    "coco": ("val2014", "42", "", ("a cow", "a cow"), "caption", {}),
    "vqa2": ("val", "42000", "Is it?", ("yes ",) * 9 + ("",), "is it", KINDS),
    "vizwiz_vqa": ("val", "VizWiz_val_00000000.jpg", "What?", ("can",) * 10, "other", OTHER),
    "snli_ve": ("test", "7", "Two men.", ("entailment",), "hypothesis", {"label": "entailment"}),
}


def picture(color="red", kind="JPEG"):
    content = io.BytesIO()
    Image.new("RGB", (8, 6), color).save(content, kind)
    return {"bytes": content.getvalue(), "path": "a.jpg"}


def save(name, root, change=None, shards=2):
    """Writes a repository's files; returns the official name of the split."""
    found = [{"image": picture(), **row} for row in ROWS[name]]
    found[0].update(change or {})
    data = datasets.Dataset.from_list(found).cast_column("image", datasets.Image())
    data = data.cast_column("label", LABEL) if "label" in data.column_names else data
    (reader,) = [reader for reader in DATA_SETS[name].readers if reader.name == "hub"]
    split = FIRST[name][0]
    (root / "hub" / "data").mkdir(parents=True)
    for shard in range(shards):
        file = f"{reader.sources[split][1]}-{shard:05d}-of-{shards:05d}.parquet"
        data.shard(shards, shard).to_parquet(root / "hub" / "data" / file)
    return split


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNGRAPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", FIRST)
def test_reads_the_columns_of_the_repositories(tmp_path, name):
    split = save(name, tmp_path)
    assert DATA_SETS[name].reader(tmp_path, split).name == "hub"
    first, second = split_examples(DATA_SETS[name], tmp_path, split)
    assert (first.id, first.prompt, first.references, first.kind, first.groups) == FIRST[name][1:]
    assert second.id != first.id
    assert Image.open(first.image).size == (8, 6) and first.image.suffix == ".jpg"


def test_pictures_become_files_once_by_content(tmp_path, cache, monkeypatch):
    save("textcaps", tmp_path, {"image": picture("blue", "PNG")})
    blue, red = (example.image for example in table(DATA_SETS["textcaps"], tmp_path, "val"))
    assert (blue.suffix, red.suffix) == (".png", ".jpg")
    assert Image.open(red).getpixel((0, 0))[0] > 200 and Image.open(blue).getpixel((0, 0))[2] > 200
    red.write_bytes(red.read_bytes()[:100])  # a copy that was cut off is made again
    written = []
    monkeypatch.setattr(hub, "write_bytes", lambda file, content: written.append(file))
    split_examples(DATA_SETS["textcaps"], tmp_path, "val")
    assert written == [red]


def test_a_digest_does_not_say_where_the_cache_is(tmp_path, cache, monkeypatch):
    save("textcaps", tmp_path / "data")
    first = table(DATA_SETS["textcaps"], tmp_path / "data", "val")
    monkeypatch.setenv("ATTNGRAPH_CACHE", str(cache.rename(tmp_path / "moved")))
    again = table(DATA_SETS["textcaps"], tmp_path / "data", "val")
    assert again.about.digest == first.about.digest
    assert all(Image.open(example.image).size == (8, 6) for example in again), "pictures are found again"


def test_splits_without_answers(tmp_path):
    save("textcaps", tmp_path, {"caption_str": []})
    with pytest.raises(UserError, match="'caption_str' of row 0 has 0 entries"):
        table(DATA_SETS["textcaps"], tmp_path, "val")
    for file in (tmp_path / "hub" / "data").iterdir():
        file.rename(file.with_name(file.name.replace("val", "test")))
    assert [example.references for example in table(DATA_SETS["textcaps"], tmp_path, "test")] == [(), ()]


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("textcaps", {"caption_str": ["b", " "]}, r"'caption_str\[1\]' of row 0 is empty"),
        ("textcaps", {"image_id": "00b2"}, "row 1 has the image_id of row 0, '00b2'"),
        ("textcaps", {"image": None}, "'image' of row 0 is NoneType"),
        ("vqa2", {"answers": [*TEN[:9], {"answer": None}]}, r"'answers\[9\]' of row 0 is NoneType"),
        ("snli_ve", {"label": -1}, "'label' of row 0 is int"),
    ],
)
def test_faults_of_rows(tmp_path, name, change, message):
    split = save(name, tmp_path, change)
    with pytest.raises(UserError, match=f"hub/.*{message}"):
        split_examples(DATA_SETS[name], tmp_path, split)
    (tmp_path / LIST).write_text(json.dumps(check(DATA_SETS[name], tmp_path, [split]).damaged))
    assert len(split_examples(DATA_SETS[name], tmp_path, split)) == 1


def test_faults_of_files(tmp_path):
    data_set = DATA_SETS["textcaps"]
    save("textcaps", tmp_path)
    last = tmp_path / "hub" / "data" / "val-00001-of-00002.parquet"
    last.write_bytes(last.read_bytes()[:100])
    with pytest.raises(UserError, match="val-00001-of-00002.parquet: cannot be read .*download it again"):
        split_examples(data_set, tmp_path, "val")
    last.unlink()
    with pytest.raises(UserError, match="only 1 of 2 files of its split; download the others"):
        split_examples(data_set, tmp_path, "val")


def test_download_keeps_a_split_whole(tmp_path, monkeypatch):
    """A folder stands for a repository. Reading downloads nothing."""
    save("textcaps", tmp_path / "repository")
    source = {"val": (str(tmp_path / "repository" / "hub"), "val")}
    fields = Fields(id="image_id", references="caption_str")
    data_set, root = DataSet("mine", "Mine", "captions", (Hub(source, fields),)), tmp_path / "root"
    with pytest.raises(UserError, match=r"hub/val.parquet missing"):
        split_examples(data_set, root, "val")
    with monkeypatch.context() as patch:
        patch.setattr(datasets.Dataset, "to_parquet", lambda *_: 1 / 0)
        with pytest.raises(UserError, match="split val: cannot be downloaded .*division by zero"):
            list(download(data_set, root))
        assert not list((root / "hub").iterdir())
    assert list(download(data_set, root)) == [root / "hub" / "val.parquet"]
    first, second = split_examples(data_set, root, "val")
    assert first.references == ("A sign.", "stop") and Image.open(second.image).size == (8, 6)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("downloaded twice"))
    list(download(data_set, root, ["val"]))
    with pytest.raises(UserError, match="unknown split of Mine on the hub 'dev': choose from val"):
        list(download(data_set, tmp_path, ["val", "dev"]))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'attngraph\[hub\]'"):
        list(download(data_set, tmp_path))
