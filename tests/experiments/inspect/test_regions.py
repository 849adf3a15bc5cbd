"""The relevant patches of words and questions: of drawn scenes, and of boxes from a file."""

import json

import pytest
import torch
from PIL import Image

from attngraph.errors import UserError
from attngraph.experiments.inspect.regions import ASKED, NAMED, NO_WORD, Regions, SceneParts, read_regions
from attngraph.experiments.models.batch import Sample
from attngraph.experiments.scenes.scene import Background, Scene, Thing
from tests.experiments.inspect.looking import pictures, source

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


@pytest.fixture(scope="module")
def looked_at(saved, tmp_path_factory):
    """``looked_at(family, height)``: two pictures of one's own, 24 wide, with texts, by this model."""

    def look(family: str, height: int = 16):
        folder = tmp_path_factory.mktemp("own")
        files = pictures(folder, "0.png", "1.png", size=(24, height))
        (folder / "texts").write_text("a red ball\na ball\n")
        return source("--model", saved(family), "--images", *files, "--texts", folder / "texts")

    return look


@pytest.mark.parametrize("family, height", [("captioner", 16), ("llava", 24), ("llava", 16)])
def test_boxes_on_pictures_of_ones_own(family, height, looked_at, tmp_path):
    """By cross-attention, and in one sequence with the text, where pictures that are cropped have none."""
    box = {"box": [0, 0, 12, height], "words": ["ball"]}
    (tmp_path / "regions.json").write_text(json.dumps({"1.png": [box]}))
    found = looked_at(family, height)
    regions = Regions(found.samples, read_regions(tmp_path / "regions.json", found.samples))
    ((batch, graphs),) = found.graphs()
    named = {name: kinds[NAMED] for name, graph in graphs.items() if (kinds := regions(batch, name, graph))}
    assert bool(named) == ((family, height) != ("llava", 16))
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

GOOD = {"box": [0, 0, 9, 9]}


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (80, 40), "red").save(tmp_path / "one.png")
    return tmp_path / "one.png"


def read(folder, content, *pictures):
    file = folder / "regions.json"
    file.write_text(json.dumps(content))
    return read_regions(file, [Sample(f"sample {k}", path) for k, path in enumerate(pictures)])


def test_a_box_is_shown_by_the_patches_that_it_covers_enough(picture, tmp_path):
    boxes = [{"box": [12, 4, 30, 17]}, {"box": [41, 21, 1, 0.5]}]
    known = read(tmp_path, {"one.png": boxes}, picture)["sample 0"]
    shown = known.masks(4, 8)[0].unflatten(0, (4, 8))
    expected = torch.zeros(4, 8, dtype=torch.bool)
    expected[:3, 1:5] = True  # 10 x 10 pixels each; the last column holds 2 of 10, the last row 1 of 10,
    expected[2, 4] = False  # and the patch in both 2 of 100
    assert torch.equal(shown, expected)
    assert known.masks(2, 2)[1].tolist() == [False, False, False, True], "a tiny one by one patch"


def test_words_and_names(picture, tmp_path):
    """Samples have other names than their pictures; what is said of other pictures does not matter."""
    parts = [GOOD | {"words": [" Dog ", "dogs"]}, {"box": [9, 9, 9, 9]}]
    known = read(tmp_path, {"one.png": parts, "other.png": [GOOD]}, picture, None)
    assert set(known) == {"sample 0"}
    assert [sorted(named) for named in known["sample 0"].named(["a", "DOG"])] == [[1], [0, 1]]
    assert sorted(known["sample 0"].asked(["where", "dogs"])) == [0, 1]


@pytest.mark.parametrize(
    "content, message",
    [
        ({"one.png": [{"words": ["x"]}]}, "one.png.0.box is missing"),
        ({"one.png": [{"box": [0, 0, 0, 9]}]}, "one.png.0.box.2: .*greater than 0"),
        ({"one.png": [{"box": [72, 0, 9, 9]}]}, "one.png.0: the box exceeds .* has 80 x 40 pixels"),
        ({"two.png": [GOOD]}, "contains none of the images"),
    ],
)
def test_what_is_wrong_is_named(content, message, picture, tmp_path):
    with pytest.raises(UserError, match=f"^{tmp_path / 'regions.json'}: .*{message}"):
        read(tmp_path, content, picture)


def test_pictures_of_one_name(picture, tmp_path):
    with pytest.raises(UserError, match="2 images are named one.png: rename all but one"):
        read(tmp_path, {"one.png": [GOOD]}, picture, tmp_path / "more" / "one.png")
