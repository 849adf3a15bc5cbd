"""Records ``viewer.gif``: the interactive page of :func:`attngraph.show` in headless Chromium.

    python docs/figures/viewer.py [FOLDER]

The shipped mini-BLIP reads a caption of a synthetic scene. Words of the caption are picked one after the
other in the second cross-attention layer, then the weights that a new p-adapter (p = 1.5) uses in place of M.
Needs ``playwright`` and a Chromium on the path.
"""

import shutil
import sys
from io import BytesIO
from pathlib import Path

from idea import LAYER, scene
from peft import get_peft_model
from PIL import Image
from playwright.sync_api import sync_playwright

from attngraph import capture, show
from attngraph.adapters import GraphAdapterConfig
from attngraph.experiments.models import load_family
from attngraph.experiments.models.images import preprocess
from attngraph.experiments.scenes.drawing import draw

CAPTION = "a blue circle , an orange square and a purple star"
SIZE = {"width": 940, "height": 730}
WORDS = (1, 2, 5, 6, 9, 10, 2)  # of the caption, picked in this order
PAUSE = 1100  # milliseconds
COLOURS = 64
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def page():
    """The page of one caption, with and without an adapter."""
    image = draw(scene())
    family = load_family()
    tokenizer = family.tokenizer
    ids = tokenizer(CAPTION, return_tensors="pt", add_special_tokens=False).input_ids
    inputs = {"input_ids": ids, "pixel_values": preprocess([image])}
    model = get_peft_model(family.model, GraphAdapterConfig(gnn="pgnn"))
    graphs = capture(family.model, inputs, layers=LAYER)
    words = tokenizer.convert_ids_to_tokens(ids[0].tolist())
    return show(graphs, image=image, tokens=words, model=model, title="Attention of the mini-BLIP")


def frames(file: Path):
    """Screenshots of the page."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as run:
        chromium = run.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = chromium.new_page(viewport=SIZE)
        tab.goto(file.as_uri())

        def shot() -> Image.Image:
            return Image.open(BytesIO(tab.screenshot())).convert("RGB")

        for word in WORDS:
            tab.click(f"#queries button >> nth={word}")
            yield shot()
        tab.select_option("#weights", index=1)
        yield shot()
        chromium.close()


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    file = folder.resolve() / "viewer.html"
    page().save(file)
    shots = [shot.quantize(COLOURS, dither=Image.Dither.NONE) for shot in frames(file)]
    file.unlink()
    shots[0].save(
        folder / "viewer.gif", save_all=True, append_images=shots[1:], duration=PAUSE, loop=0, optimize=True
    )


if __name__ == "__main__":
    main()
