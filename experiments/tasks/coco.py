"""Captioning on COCO's captions in Karpathy's split."""

from experiments.tasks.captions import OfficialCaptions, caption_columns
from experiments.tasks.task import register


class COCO(OfficialCaptions):
    """Each image once, against all of its captions."""

    name, title, data_set = "coco", "COCO Captions", "coco"
    mirrors = True
    columns = caption_columns("coco", "COCO")


register(COCO())
