"""Inputs of models with a processor, for reading: where answers begin, start tokens, padding, what a decoder
reads."""

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessor, SiglipProcessor

from attngraph.experiments.models import Decoding, Sample, load_family
from attngraph.experiments.models.image_text import ProcessorFamily
from attngraph.experiments.models.vilt_order import in_order
from tests.attngraph.reading.running import run
from tests.attngraph.reading.zoo import FAMILIES as ZOO
from tests.experiments.models.writers import CHAT, end_of, load
from tests.experiments.models.writers import SAMPLES as WRITTEN
from tests.experiments.tiny import PROCESSORS, save, tokenizer

PICTURES = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
SAMPLES = [Sample("one", PICTURES[0], "a red", "ball"), Sample("two", PICTURES[1], "red", "a star ball")]
WITHOUT_PROMPT = Sample("one", PICTURES[0], "", "a ball")


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    return {
        name: load_family(save(name, tmp_path_factory.mktemp(name)))
        for name in ("llava", "t5", "blip-vqa", "captioner")
    }


@pytest.mark.parametrize("template, side", [(None, "left"), (CHAT, "right")])
def test_the_answer_begins_after_the_prompt(families, template, side):
    family = families["llava"]
    family.processor.chat_template, family.tokenizer.padding_side = template, side
    family.tokenizer.bos_token = None if template is None else "[CLS]"
    text = family.batch(SAMPLES).text
    for line, start, sample, padding in zip(text.tokens, text.prompt.tolist(), SAMPLES, text.padding):
        tokens = [token for token, padded in zip(line, padding) if not padded]
        answer = sample.answer.split()
        assert line[start : start + len(answer)] == answer
        # With a template the word "assistant" comes before the answer.
        assert line[start - 1] == (sample.prompt.split()[-1] if template is None else "[UNK]")
        assert tokens.count("[CLS]") == 1 and tokens[0] == "[CLS]"
    family.processor.chat_template = None
    assert family.batch([WITHOUT_PROMPT]).text.prompt is None


@pytest.mark.parametrize("name", ["t5", "blip-vqa"])
def test_an_encoder_reads_the_prompt_and_the_decoder_writes_the_answer(families, name):
    batch = families[name].batch(SAMPLES)
    assert batch.text.tokens[0] == ["[ENC]" if name == "blip-vqa" else "[CLS]", "a", "red", "[SEP]"]
    assert "ball" in batch.decoder.tokens[0] and "ball" not in batch.text.tokens[0]
    alone = families[name].batch([WITHOUT_PROMPT])
    assert "ball" in alone.text.tokens[0] and "ball" in alone.decoder.tokens[0]


def test_a_decoder_alone_reads_prompt_and_answer(families):
    batch = families["captioner"].batch(SAMPLES)
    assert batch.text is None and "a red ball" in " ".join(batch.decoder.tokens[0])
    assert batch.decoder.tokens[0][batch.decoder.prompt[0]] == "ball"


def test_padding_that_is_read_is_always_as_long():
    """A model without an attention mask reads padding, so a text must not depend on its batch's longest."""
    words, model = tokenizer(16), torch.nn.Module()
    words.model_input_names = ["input_ids"]
    model.config = SiglipConfig()
    model.config.text_config.max_position_embeddings = 16
    images = SiglipImageProcessor(size={"height": 8, "width": 8})
    family = ProcessorFamily(model, SiglipProcessor(images, words))
    both, alone = (family.batch(samples).inputs["input_ids"] for samples in (SAMPLES, SAMPLES[:1]))
    assert both.shape == (2, 16) and torch.equal(both[:1], alone)


def test_a_processor_that_places_images_itself_gets_no_place(families, monkeypatch):
    processor = PROCESSORS["llava"]()
    family = ProcessorFamily(families["llava"].model, processor)
    assert family.full_text(SAMPLES[0], True) == "<image> a red ball"
    placing = ProcessorFamily(families["llava"].model, processor)
    monkeypatch.setattr(type(processor), "__call__", lambda self, **_: {"input_ids": torch.tensor([[4, 5]])})
    assert placing.full_text(SAMPLES[0], True) == "a red ball"


def test_the_language_side_of_models_that_are_only_read(tmp_path):
    for name in ("gpt2", "vilt"):
        assert load_family(save(name, tmp_path / name)).language_side() == [""]
    parts = load_family(save("clip", tmp_path / "clip")).language_side()
    assert "text_model" in parts and not any(part.startswith("vision_model") for part in parts)


def test_vilts_patches_come_in_order():
    """Row by row and padding last, in every call; the model computes the same."""
    model, inputs = ZOO["vilt"].model(), ZOO["vilt"].inputs()
    inputs["pixel_mask"] = torch.ones(2, 8, 8, dtype=torch.long)
    inputs["pixel_mask"][1, :, 4:] = 0  # its right half is padding
    want = run(model, inputs).last_hidden_state[:, :7]
    assert in_order(model) is model
    for seed in range(3):
        torch.manual_seed(seed)
        _, mask, (places, _) = model.embeddings.visual_embed(inputs["pixel_values"], inputs["pixel_mask"])
        assert places[0].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]] and places[1, :2].tolist() == [
            [0, 0],
            [1, 0],
        ]
        assert mask.tolist() == [[1] * 5, [1] * 3 + [0] * 2]
        with torch.no_grad():
            torch.testing.assert_close(model(**inputs).last_hidden_state[:, :7], want)


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """Marks spaces as GPT-2 and Qwen do."""
    names = ["<pad>", "<s>", "</s>", "<unk>", "a", "red", "ball", "\u0120a", "\u0120red", "\u0120ball"]
    words = Tokenizer(WordLevel({name: k for k, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer, words.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    special = dict(pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def test_a_vocabulary_of_bytes_holds_the_space_before_the_answer():
    """The models write " ball" after "red", in one token; after a newline or a special token "ball"."""
    family = load("llava")
    family.tokenizer = bytes_tokenizer()

    def tokens(answer, before):
        (ids,) = family.answer_ids([answer], before)
        return family.tokenizer.convert_ids_to_tokens(ids)[:-1]

    assert tokens("ball", "a red") == tokens("ball", "Assistant:") == ["\u0120ball"]
    assert tokens("ball", "") == tokens("ball", "assistant\n") == tokens("ball", "a</s>") == ["ball"]
    assert tokens("", "a red") == []


def test_a_model_that_names_several_ends_stops_at_each():
    """Chat models end a turn with one token and a text with another (Llama 3.2, Gemma 3)."""
    family = load("llava")
    before = family.generate(WRITTEN, Decoding(5))
    word = next(words[0] for words in map(str.split, before) if len(words) > 1)
    number = family.tokenizer.convert_tokens_to_ids(word)
    family.model.generation_config.eos_token_id = [end_of(family), number]
    after = family.generate(WRITTEN, Decoding(5))
    assert after != before
    for text, whole in zip(after, before):
        words = whole.split()
        assert text.split() == (words[: words.index(word) + 1] if word in words else words)
