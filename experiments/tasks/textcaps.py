"""Captioning with reading on TextCaps' official files."""

from experiments.predictions.captions import TEXTCAPS
from experiments.tasks.captions import OfficialCaptions, caption_columns
from experiments.tasks.task import register


class TextCaps(OfficialCaptions):
    """Each image once, against all five captions; ids are texts."""

    name, title, data_set = "textcaps", "TextCaps", "textcaps"
    columns = caption_columns("textcaps", "TextCaps")
    file_format = TEXTCAPS


register(TextCaps())
