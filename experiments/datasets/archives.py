"""Archives that two data sets take files from."""

from __future__ import annotations

from experiments.datasets.dataset import Archive

#: COCO's images; train and val are read by COCO Captions and by VQA v2, test by VQA v2 alone.
COCO_TRAIN, COCO_VAL, COCO_TEST = (
    Archive(f"{part}.zip", f"http://images.cocodataset.org/zips/{part}.zip", (f"{part}/",), size)
    for part, size in (("train2014", 13_510_573_713), ("val2014", 6_645_013_297), ("test2015", None))
)
KARPATHY_FILE = "dataset_coco.json"
KARPATHY = Archive(
    "caption_datasets.zip",
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
    (KARPATHY_FILE,),
)
VIZWIZ = "https://vizwiz.cs.colorado.edu/VizWiz_final"
#: VizWiz's images, of which its two data sets take different ones.
VIZWIZ_IMAGES = tuple(
    Archive(f"{part}.zip", f"{VIZWIZ}/images/{part}.zip", (f"{part}/",), size)
    for part, size in (("train", 11_298_421_598), ("val", None), ("test", None))
)
