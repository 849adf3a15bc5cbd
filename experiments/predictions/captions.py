"""Captions: ``[{"image_id": int, "caption": str}]``, as the servers of COCO and VizWiz and pycocoevalcap take
them.

TextCaps has ids that are texts of 16 hexadecimal digits.
"""

from experiments.predictions.format import Format

CAPTIONS = Format("COCO caption results", "image_id", int, "caption")
TEXTCAPS = Format("TextCaps results", "image_id", str, "caption")
