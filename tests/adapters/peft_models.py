"""Small random Hugging Face models of every kind that graph adapters go into, and inputs for them.

``FAMILIES[name]`` makes the model and a batch. Weights are far from zero, so that no term can hide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers as hf
from torch import Tensor

from tests.conftest import END, PAD, START, VOCABULARY, far_from_zero, text_config

IMAGE_TOKEN = 40
SPECIAL = dict(pad_token_id=PAD, bos_token_id=START, eos_token_id=END)
TEXT = dict(vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, **SPECIAL)
VISION = dict(hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Args:
        make: the model, from a seed.
        kind: ``encoder``, ``decoder`` or ``seq2seq``.
        image: what goes with the text, from its token ids.
        image_tokens: how many image tokens the text starts with.
        positions: which positions there are to adapt.
        adapted: where the adapters' names start by default.
    """

    make: Callable[[int], hf.PreTrainedModel]
    kind: str
    positions: tuple[str, ...]
    adapted: tuple[str, ...]
    image: Callable[[Tensor], dict] = lambda ids: {}
    image_tokens: int = 0

    def batch(self, b: int = 2, n: int = 6, seed: int = 0) -> dict[str, Tensor]:
        """Text (after the image tokens, if any) and image for a forward pass; ``decoder_input_ids`` too for a seq2seq."""
        draw = torch.Generator().manual_seed(seed)
        ids = torch.randint(3, IMAGE_TOKEN, (b, n), generator=draw)
        ids = torch.cat([torch.full((b, self.image_tokens), IMAGE_TOKEN), ids], 1)
        batch = dict(input_ids=ids, attention_mask=torch.ones_like(ids), **self.image(ids))
        if self.kind == "seq2seq":
            batch["decoder_input_ids"] = torch.randint(3, IMAGE_TOKEN, (b, n), generator=draw)
        return batch


def pixels(ids: Tensor) -> dict[str, Tensor]:
    return dict(pixel_values=torch.randn(len(ids), 3, 8, 8, generator=torch.Generator().manual_seed(50)))


def qwen_pixels(ids: Tensor) -> dict[str, Tensor]:
    patches = torch.randn(16 * len(ids), 3 * 2 * 4 * 4, generator=torch.Generator().manual_seed(50))
    return dict(pixel_values=patches, image_grid_thw=torch.tensor([[1, 4, 4]] * len(ids)),
                mm_token_type_ids=(ids == IMAGE_TOKEN).int())


def bert():
    return hf.BertForMaskedLM(hf.BertConfig(**{**TEXT, "num_attention_heads": 2}, hidden_dropout_prob=0.0,
                                            attention_probs_dropout_prob=0.0))


def gpt2():
    return hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64, n_inner=24,
                                            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **SPECIAL))


def llama():
    return hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT))


def t5():
    return hf.T5ForConditionalGeneration(hf.T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=6, d_ff=24, num_layers=2, num_heads=2, dropout_rate=0.0,
        decoder_start_token_id=PAD, **SPECIAL))


def bart():
    return hf.BartForConditionalGeneration(hf.BartConfig(
        vocab_size=VOCABULARY, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=64, dropout=0.0,
        decoder_start_token_id=END, forced_eos_token_id=None, **SPECIAL))


def blip():
    return hf.BlipForConditionalGeneration(hf.BlipConfig(
        text_config=text_config(), vision_config=VISION | dict(projection_dim=16), projection_dim=16,
        image_text_hidden_size=16, attn_implementation="eager"))


def blip2():
    opt = dict(model_type="opt", vocab_size=VOCABULARY, hidden_size=16, word_embed_proj_dim=16, ffn_dim=24, num_hidden_layers=2,
               num_attention_heads=2, max_position_embeddings=64, dropout=0.0, **SPECIAL)
    qformer = dict(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
                   encoder_hidden_size=12, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return hf.Blip2ForConditionalGeneration(hf.Blip2Config(
        vision_config=VISION, qformer_config=qformer, text_config=opt, num_query_tokens=4, image_token_index=IMAGE_TOKEN))


def llava():
    return hf.LlavaForConditionalGeneration(hf.LlavaConfig(
        vision_config=VISION | dict(model_type="clip_vision_model", num_hidden_layers=2), text_config=TEXT | dict(model_type="llama"),
        image_token_index=IMAGE_TOKEN, image_seq_length=4))


def qwen2_vl():
    vision = dict(depth=1, embed_dim=16, hidden_size=16, num_heads=2, patch_size=4, mlp_ratio=1, spatial_merge_size=2)
    rope = dict(rope_type="default", mrope_section=[1, 0, 1], rope_theta=10000.0)
    return hf.Qwen2VLForConditionalGeneration(hf.Qwen2VLConfig(
        vision_config=vision, text_config=TEXT | dict(rope_parameters=rope), image_token_id=IMAGE_TOKEN, vision_start_token_id=38,
        vision_end_token_id=39, video_token_id=37))


def made(build: Callable[[], hf.PreTrainedModel]) -> Callable[[int], hf.PreTrainedModel]:
    return lambda seed=0: far_from_zero(build(), seed)


ALL = ("self", "cross", "ffn")
OWN = ("self", "ffn")
FAMILIES = {
    "bert": Family(made(bert), "encoder", OWN, ("bert.encoder",)),
    "gpt2": Family(made(gpt2), "decoder", OWN, ("transformer.h",)),
    "llama": Family(made(llama), "decoder", OWN, ("model.layers",)),
    "t5": Family(made(t5), "seq2seq", ALL, ("encoder.block", "decoder.block")),
    "bart": Family(made(bart), "seq2seq", ALL, ("model.encoder", "model.decoder")),
    "blip": Family(made(blip), "decoder", ALL, ("text_decoder.bert.encoder",), pixels),
    "blip2": Family(made(blip2), "decoder", OWN, ("language_model.model.decoder",), pixels, 4),
    "llava": Family(made(llava), "decoder", OWN, ("model.language_model.layers",), pixels, 4),
    "qwen2_vl": Family(made(qwen2_vl), "decoder", OWN, ("model.language_model.layers",), qwen_pixels, 4),
}
