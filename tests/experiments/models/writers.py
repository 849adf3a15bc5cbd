"""Families that write answers, each as a tiny model with weights far from zero, and what plain transformers
compute."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, BlipImageProcessor

from attngraph.experiments.models import FAMILIES, Checkpoint, ModelFamily, Sample, load_family
from attngraph.experiments.models.images import open_image
from tests.attngraph.reading.zoo import far_from_zero
from tests.experiments.examples.example_family import Blind
from tests.experiments.tiny import save

#: With seeds of weights for which the samples' greedy texts differ, and some end early; and what their image
#: encoders are called.
MODELS = {
    "blip": (15, "vision_model"),
    "blip-vqa": (15, "vision_model"),
    "mplug": (17, "vision_model"),
    "llava": (0, "model.vision_tower"),
    "llava-chat": (11, "model.vision_tower"),
    "smolvlm": (2, "model.vision_model"),
    "qwen2-vl": (11, "model.visual"),
    "blip2": (0, "vision_model"),
    "instructblip": (3, "vision_model"),
    "git": (7, "git.image_encoder"),
    "blind": (1, None),  # the example of docs/extending
}
WRITERS = tuple(MODELS)
FAMILIES.pop(Blind.name)  # importing it has made it known to all commands
WORDS = ("a", "red", "ball", "star")
FORBIDDEN = -1e4
# A conversation as instruction-tuned models have it; its frame is unknown to the tiny tokenizer.
CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }} {% for c in m.content %}"
    "{% if c.type == 'image' %}<image> {% else %}{{ c.text }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def picture(seed: int) -> Image.Image:
    """Noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8))


SAMPLES = [
    Sample("short", picture(0), "red", "ball"),
    Sample("long", picture(1), "a red ball star", "a star"),
    Sample("longest answer", picture(2), "a star", "red ball a red"),
]


@cache
def _folder(name: str) -> Path:
    return save(name, Path(mkdtemp()) / name)


def load(name: str) -> ModelFamily:
    """A family of :data:`WRITERS` that writes no tokens but words and the end, so that texts and tokens are
    one."""
    if name == "blind":
        folder = _folder("gpt2")
        family = Blind.load(Checkpoint(str(folder), AutoConfig.from_pretrained(folder)))
    else:
        family = load_family(_folder(name.removesuffix("-chat")))
    far_from_zero(family.model, MODELS[name][0])
    if name.endswith("-chat"):
        family.processor.chat_template, family.tokenizer.bos_token = CHAT, "[CLS]"
    allowed = torch.tensor([*family.tokenizer.convert_tokens_to_ids(list(WORDS)), end_of(family)])
    writer(family).get_output_embeddings().register_forward_hook(lambda _, __, logits: only(logits, allowed))
    return family


def only(logits: Tensor, allowed: Tensor) -> Tensor:
    """Logits that are low for all but the allowed tokens."""
    low = torch.full_like(logits, FORBIDDEN)
    low[..., allowed] = logits[..., allowed]
    return low


def writer(family: ModelFamily) -> nn.Module:
    """The module with the layers that read ids and give logits."""
    return getattr(family.model, "text_decoder", family.model)


def end_of(family: ModelFamily) -> int:
    """The id of the end token."""
    return family.end if hasattr(family, "end") else family.tokenizer.sep_token_id


class ByHand(NamedTuple):
    """One sample without padding, through the model's own class: logits ``(n, vocabulary)``, ids ``(n,)``,
    and how many of them come before the answer."""

    logits: Tensor
    ids: Tensor
    prompt: int

    @property
    def steps(self) -> Tensor:
        """Log-likelihoods of the answer's tokens and the end token, in nats."""
        predicted = self.logits[self.prompt - 1 : -1].log_softmax(-1)
        return predicted.gather(1, self.ids[self.prompt :, None])[:, 0]


@torch.no_grad()
def by_hand(family: ModelFamily, sample: Sample) -> ByHand:
    """What the model's own class computes of a prompt and an answer, after learned tokens."""
    model, tokenizer, name = family.model, family.tokenizer, family.model.config.model_type
    answer = [*tokenizer(sample.answer, add_special_tokens=False)["input_ids"], end_of(family)]
    if name in ("blip", "mplug"):
        return _blip(family, sample, answer)
    if name == "gpt2":
        words = tokenizer(sample.prompt, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[family.start, *words, *answer]])
        return ByHand(model(input_ids=ids).logits[0], ids[0], 1 + len(words))
    token = getattr(family.processor, "image_token", "")
    places = "" if name in ("blip-2", "instructblip") else f"{token} "
    text, options = f"{places}{sample.prompt}".strip(), {"return_tensors": "pt"}
    if getattr(family.processor, "chat_template", None):
        text, options["add_special_tokens"] = f"[CLS]user <image> {sample.prompt} assistant ", False
    image = open_image(sample.image)
    inputs = dict(family.processor(text=[text], images=[[image] if token else image], **options))
    inputs.pop("mm_token_type_ids", None)
    prompt = inputs["input_ids"]
    if int(prompt[0, -1]) == end_of(family):  # tokenizers of encoders put one there
        prompt = prompt[:, :-1]
    prompt = torch.cat([torch.tensor([family.learned], dtype=torch.long), prompt], 1)
    ids = torch.cat([prompt, torch.tensor([answer])], 1)
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if name == "qwen2_vl":
        inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    logits = model(**inputs).logits[0, -ids.shape[1] :]
    return ByHand(logits, ids[0], prompt.shape[1])


def _blip(family: ModelFamily, sample: Sample, answer: list[int]) -> ByHand:
    """A BLIP captioner, the question encoder and answer decoder of BLIP VQA, or mPLUG."""
    model, tokenizer = family.model, family.tokenizer
    words, first = tokenizer(sample.prompt, add_special_tokens=False)["input_ids"], list(family.learned or ())
    size = model.config.vision_config.image_size
    processor = BlipImageProcessor(size={"height": size, "width": size})
    pixels = processor(open_image(sample.image), return_tensors="pt")["pixel_values"]
    start = [*first, tokenizer.bos_token_id]
    ids = torch.tensor([start + answer])
    if hasattr(model, "fusion_encoder"):
        asked = torch.tensor([[*first, tokenizer.cls_token_id, *words]]) if words else None
        return ByHand(model(pixels, asked, decoder_input_ids=ids).logits[0], ids[0], len(start))
    if hasattr(model, "text_encoder"):
        begin, end = tokenizer.convert_tokens_to_ids("[ENC]"), tokenizer.sep_token_id
        question = torch.tensor([[*first, begin, *words, end]])
        states = model.vision_model(pixel_values=pixels).last_hidden_state
        read = model.text_encoder(
            input_ids=question, attention_mask=torch.ones_like(question), encoder_hidden_states=states
        )[0]
        logits = model.text_decoder(input_ids=ids, encoder_hidden_states=read).logits[0]
        return ByHand(logits, ids[0], len(start))
    prompt = [*start, *words]
    ids = torch.tensor([prompt + answer])
    logits = model(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    return ByHand(logits, ids[0], len(prompt))
