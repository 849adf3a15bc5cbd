"""The relevant patches of words and questions: of drawn scenes, and of boxes and masks from a file."""

import json

import pytest
import torch
from PIL import Image, ImageDraw

from attngraph.errors import UserError
from experiments.inspect.regions import ASKED, NAMED, NO_WORD, Regions, SceneParts, read_regions
from experiments.models.batch import Sample
from experiments.scenes.scene import Background, Scene, Thing
from tests.experiments.inspect.looking import pictures, source
from tests.experiments.tiny import save

THINGS = (
    Thing("circle", "red", "small", 11, 11, 5),
    Thing("circle", "blue", "large", 32, 32, 9),
    Thing("cross", "red", "large", 53, 53, 9),
)
PARTS = SceneParts(Scene(0, THINGS, Background("plain", (9, 9, 9), (9, 9, 9), 0), None, "downstream"))


@pytest.mark.parametrize(
    "text, named, asked",
    [
        ("what is it", [[], [], []], []),
        ("a red circle", [[], [0, 2], [0]], [0]),
        ("Red thing left of crosses", [[0, 2], [0, 2], [], [], [2]], [0, 2]),
        ("is the circle red", [[], [], [0, 1], [0, 2]], [0, 1, 2]),
        ("large blue cross", [[1, 2], [1], []], []),
        ("red blue circle", [[0, 2], [1], [1]], [0, 1, 2]),
        ("how many things", [[], [], []], []),
    ],
)
def test_words_name_things(text, named, asked):
    words = text.split()
    assert [sorted(numbers) for numbers in PARTS.named(words)] == named
    assert sorted(PARTS.asked(words)) == asked


def test_masks_show_where_things_are():
    masks = PARTS.masks(8, 8).unflatten(1, (8, 8))
    assert masks[0].nonzero().max() == 2 and masks[0][1, 1]  # pixels 6 to 16
    assert masks[1][3:5, 3:5].all() and not masks[1][:2].any()
    assert masks[2][6, 6] and not (masks[0] & masks[2]).any()
    assert PARTS.masks(8, 4) is None
    assert masks.dtype == torch.bool


def test_questions_about_scenes():
    looked_at = source("--task", "vqa", "--examples", 12, "--layers", "*3*")
    regions, asked, named = Regions(looked_at.samples), 0, 0
    for batch, graphs in looked_at.graphs():
        found = {name: regions(batch, name, graph) for name, graph in graphs.items()}
        assert {name: set(kinds) for name, kinds in found.items()} == {
            name: {NAMED, ASKED} if "crossattention" in name else set() for name in graphs
        }
        (kinds,) = (kinds for kinds in found.values() if kinds)
        for kind in kinds.values():
            assert kind.candidates.tolist() == [[False] + [True] * 64] * 12  # [CLS] is none
            assert kind.grids == [(8, 8)] * 12
        for k, sample in enumerate(batch.samples):
            parts, tokens = SceneParts(sample.scene), batch.text.tokens[k]
            masks = parts.masks(8, 8)
            start = int(batch.text.prompt[k])
            rows = kinds[ASKED].relevant[k].any(-1)
            expected = parts.asked(sample.prompt.replace("?", " ").replace(",", " ").split())
            assert rows.nonzero()[:, 0].tolist() == ([start - 1] if expected else [])
            if expected:
                asked += 1
                shown = kinds[ASKED].relevant[k, start - 1, 1:]
                assert torch.equal(shown, masks[sorted(expected)].any(0))
            for i, words in enumerate(parts.named(tokens)):  # the scenes' words are whole tokens
                if words:
                    named += 1
                    assert torch.equal(kinds[NAMED].relevant[k, i, 1:], masks[sorted(words)].any(0))
                else:
                    assert not kinds[NAMED].relevant[k, i].any()
    assert asked > 6 and named > 12 and not regions.notes()


def test_captions_ask_for_nothing():
    looked_at = source("--examples", 2, "--layers", "*crossattention*")
    regions = Regions(looked_at.samples)
    ((batch, graphs),) = looked_at.graphs()
    assert {frozenset(regions(batch, name, graph)) for name, graph in graphs.items()} == {frozenset({NAMED})}


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory):
    """``looked_at(family)``: two pictures of one's own with texts, by this model."""
    folder = tmp_path_factory.mktemp("own")
    files = pictures(folder, "0.png", "1.png", size=(24, 16))
    (folder / "texts").write_text("a red ball\na ball\n")

    def by(family: str):
        model = save(family, folder / family)
        return source("--model", model, "--images", *files, "--texts", folder / "texts")

    return by


@pytest.mark.parametrize("family", ["captioner", "llava"])
def test_boxes_on_pictures_of_ones_own(family, looked_at, tmp_path):
    """By cross-attention, and in one sequence with the text."""
    box = {"box": [0, 0, 12, 16], "words": ["ball"]}
    (tmp_path / "regions.json").write_text(json.dumps({"1.png": [box]}))
    found = looked_at(family)
    regions = Regions(found.samples, read_regions(tmp_path / "regions.json", found.samples))
    ((batch, graphs),) = found.graphs()
    named = {name: kinds[NAMED] for name, graph in graphs.items() if (kinds := regions(batch, name, graph))}
    assert named
    for name, region in named.items():
        assert not region.relevant[0].any(), name
        (row,) = region.relevant[1].any(-1).nonzero()[:, 0].tolist()
        rows, columns = region.grids[1]
        shown = region.relevant[1, row][region.candidates[1]].unflatten(0, (rows, columns))
        half = torch.arange(columns) < -(-columns // 2)
        assert torch.equal(shown, half.expand(rows, columns)), name


def test_words_that_name_nothing_are_told_of(looked_at, tmp_path):
    found = looked_at("captioner")
    ((batch, graphs),) = found.graphs()
    for word, noted in (("ball", []), ("cat", [NO_WORD])):
        box = {"box": [0, 0, 12, 16], "words": [word]}
        (tmp_path / "regions.json").write_text(json.dumps({"0.png": [box]}))
        regions = Regions(found.samples, read_regions(tmp_path / "regions.json", found.samples))
        assert regions.notes() == [], "nothing was looked at yet"
        for name, graph in graphs.items():
            regions(batch, name, graph)
        assert regions.notes() == noted


# ---- the file ---------------------------------------------------------------------------------------------


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (80, 40), "red").save(tmp_path / "one.png")
    return tmp_path / "one.png"


def read(folder, content, *pictures):
    file = folder / "regions.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    samples = [Sample(path.name, path) for path in pictures]
    return read_regions(file, samples), samples


def test_a_box_and_the_mask_of_the_same_place_are_alike(picture, tmp_path):
    box = [12, 4, 30, 17]
    mask = Image.new("L", (80, 40))
    ImageDraw.Draw(mask).rectangle((12, 4, 41, 20), fill=255)
    mask.save(tmp_path / "mask.png")
    file, (sample,) = read(tmp_path, {"one.png": [{"box": box}, {"mask": "mask.png"}]}, picture)
    for rows, columns in ((4, 8), (8, 4), (5, 5), (1, 1)):
        one, other = file[sample.name].masks(rows, columns)
        assert torch.equal(one, other)
    shown = file[sample.name].masks(4, 8)[0].unflatten(0, (4, 8))
    expected = torch.zeros(4, 8, dtype=torch.bool)
    expected[:3, 1:5] = True  # 10 x 10 pixels each; the last column holds 2 of 10, the last row 1 of 10,
    expected[2, 4] = False  # and the patch in both 2 of 100
    assert torch.equal(shown, expected)


def test_a_tiny_part_is_shown_by_one_patch(picture, tmp_path):
    file, (sample,) = read(tmp_path, {"one.png": [{"box": [41, 21, 1, 0.5]}]}, picture)
    masks = file[sample.name].masks(2, 2)
    assert masks.tolist() == [[False, False, False, True]]


def test_words(picture, tmp_path):
    parts = [{"box": [0, 0, 9, 9], "words": ["Dog", "dogs"]}, {"box": [9, 9, 9, 9]}]
    file, (sample,) = read(tmp_path, {"one.png": parts, "other.png": [{"mask": "absent.png"}]}, picture)
    known = file[sample.name]
    assert [sorted(named) for named in known.named(["a", "DOG"])] == [[1], [0, 1]]
    assert sorted(known.asked(["where", "dogs"])) == [0, 1]


def test_examples_of_data_have_other_names_than_their_pictures(picture, tmp_path):
    """A question's number, say; and pictures are open when the model gets them."""
    (tmp_path / "regions.json").write_text(json.dumps({"one.png": [GOOD]}))
    samples = [Sample("7", picture), Sample("8", picture), Sample("9", None)]
    assert set(read_regions(tmp_path / "regions.json", samples)) == {"7", "8"}


GOOD = {"box": [0, 0, 9, 9]}


@pytest.mark.parametrize(
    "content, message",
    [
        ({"one.png": [GOOD, 3]}, "one.png.1: "),
        ({"one.png": [{"words": ["x"]}]}, "either a box or a mask"),
        ({"one.png": [{"box": [0, 0, 9]}]}, "one.png.0.box"),
        ({"one.png": [{"box": [0, 0, 0, 9]}]}, "one.png.0.box.2: .*greater than 0"),
        ({"one.png": [{"box": [-1, 0, 9, 9]}]}, "one.png.0.box.0: .*greater than or equal to 0"),
        ({"one.png": [{"box": [0, 0, True, 9]}]}, "one.png.0.box.2: "),
        ('{"one.png": [{"box": [0, 0, 1e999, 9]}]}', "one.png.0.box.2: .*finite"),
        ({"one.png": [{"box": [72, 0, 9, 9]}]}, "one.png.0: the box leaves .* has 80 x 40 pixels"),
        ({"one.png": [{"mask": " "}]}, "one.png.0.mask"),
        ({"one.png": [{"mask": "none.png"}]}, "one.png.0: .*none.png not found"),
        ({"one.png": [{"mask": "small.png"}]}, "small.png has 4 x 4 pixels, the picture 80 x 40"),
        ({"one.png": [{"mask": "black.png"}]}, "black.png must be black .* and only there"),
        ({"one.png": [{"mask": "cut_out.png"}]}, "cut_out.png must be black .not transparent"),
        ({"one.png": [{**GOOD, "words": []}]}, "one.png.0.words: "),
        ({"two.png": [GOOD]}, "none of the pictures that are looked at: .* such as 'one.png'"),
    ],
)
def test_what_is_wrong_is_named(content, message, picture, tmp_path):
    Image.new("L", (4, 4), 255).save(tmp_path / "small.png")
    Image.new("L", (80, 40)).save(tmp_path / "black.png")
    Image.new("RGBA", (80, 40)).save(tmp_path / "cut_out.png")
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, content, picture)
    assert str(error.value).startswith(f"--regions {tmp_path / 'regions.json'}: ")
    assert "\n" not in str(error.value)


def test_pictures_of_one_name_and_none(picture, tmp_path):
    (tmp_path / "more").mkdir()
    Image.open(picture).save(tmp_path / "more" / "one.png")
    with pytest.raises(UserError, match="have one name"):
        read(tmp_path, {"one.png": [GOOD]}, picture, tmp_path / "more" / "one.png")
    with pytest.raises(UserError, match="none are looked at: give --images or --data"):
        read(tmp_path, {"one.png": [GOOD]})
    (tmp_path / "two.png").write_text("no picture")
    file, _ = read(tmp_path, {"one.png": [GOOD], "two.png": [GOOD]}, picture, tmp_path / "two.png")
    assert set(file) == {"one.png"}
