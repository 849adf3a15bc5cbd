"""Inputs of models with a processor: where answers begin, start tokens, padding, what a decoder reads."""

import pytest
import torch
from PIL import Image
from transformers import SiglipImageProcessor, SiglipProcessor

from experiments.inspect.encoders import Item, ProcessorEncoder, load_with_encoder
from tests.experiments.tiny import PROCESSORS, save, tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }} {% for c in m.content %}"
    "{% if c.type == 'image' %}<image> {% else %}{{ c.text }} {% endif %}{% endfor %}{% endfor %}"
)
PICTURES = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
ITEMS = [Item("one", "a red", "ball", PICTURES[0]), Item("two", "red", "a star ball", PICTURES[1])]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    return {
        family: load_with_encoder(str(save(family, tmp_path_factory.mktemp(family))))[1]
        for family in ("llava", "vilt", "t5", "blip-vqa", "captioner")
    }


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_the_answer_begins_after_the_prompt(encoders, template, side):
    encoder = encoders["llava"]
    encoder.processor.chat_template, encoder.tokenizer.padding_side = template, side
    encoder.tokenizer.bos_token = None if template is None else "[CLS]"
    text = encoder.encode(ITEMS, PICTURES).text
    for line, start, item, padding in zip(text.tokens, text.prompt.tolist(), ITEMS, text.padding):
        there = [token for token, gone in zip(line, padding) if not gone]
        assert line[start : start + len(item.text.split())] == item.text.split()
        assert line[start - 1] == (
            item.prompt.split()[-1] if template is None else "[UNK]"
        )  # the word "assistant"
        assert there.count("[CLS]") == 1 and there[0] == "[CLS]"
    encoder.processor.chat_template = None
    assert encoder.encode([Item("one", "", "ball", PICTURES[0])], PICTURES[:1]).text.prompt is None


def test_an_encoder_reads_the_prompt_and_the_decoder_writes_the_text(encoders):
    for family in ("t5", "blip-vqa"):
        found = encoders[family].encode(ITEMS, PICTURES)
        assert found.text.tokens[0] == ["[CLS]", "a", "red", "[SEP]"] and "red" not in found.decoder.tokens[0]
        assert "ball" in found.decoder.tokens[0] and "ball" not in found.text.tokens[0]
        alone = encoders[family].encode([Item("one", "", "a ball", PICTURES[0])], PICTURES[:1])
        assert "ball" in alone.text.tokens[0] and "ball" in alone.decoder.tokens[0]
    found = encoders["captioner"].encode(ITEMS, PICTURES)
    assert found.text is None and "a red ball" in " ".join(found.decoder.tokens[0])
    assert found.decoder.tokens[0][found.decoder.prompt[0]] == "ball"


def test_padding_that_is_read_is_always_as_long():
    """A model without an attention mask reads padding, so a text must not depend on its batch's longest."""
    words = tokenizer(16)
    words.model_input_names = ["input_ids"]
    model = torch.nn.Module()
    model.config = SiglipLike()
    encoder = ProcessorEncoder(
        model, SiglipProcessor(SiglipImageProcessor(size={"height": 8, "width": 8}), words)
    )
    both, alone = (
        encoder.encode(items, [item.image for item in items]).inputs["input_ids"]
        for items in (ITEMS, ITEMS[:1])
    )
    assert both.shape == (2, 16) and torch.equal(both[:1], alone)


class SiglipLike:
    model_type = "siglip"

    def get_text_config(self):
        return self


def test_a_processor_that_places_images_itself_gets_no_place(encoders, monkeypatch):
    processor = PROCESSORS["llava"]()
    encoder = ProcessorEncoder(encoders["llava"].model, processor)
    assert encoder._text(ITEMS[0], True) == "<image> a red ball"
    placing = ProcessorEncoder(encoders["llava"].model, processor)
    monkeypatch.setattr(type(processor), "__call__", lambda self, **_: {"input_ids": torch.tensor([[4, 5]])})
    assert placing._text(ITEMS[0], True) == "a red ball"
