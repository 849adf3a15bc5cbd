"""Captioning of pictures that blind people took, on VizWiz-Captions' official files."""

from experiments.tasks.captions import OfficialCaptions, caption_columns
from experiments.tasks.task import register


class VizWizCaps(OfficialCaptions):
    """Each image once, without captions that were rejected or prewritten."""

    name, title, data_set = "vizwiz_caps", "VizWiz-Captions", "vizwiz_caps"
    columns = caption_columns("vizwiz_caps", "VizWizCaps")


register(VizWizCaps())
