"""Draw where a model looks: attention, rollout and gradient-weighted relevance, over the pictures::

    attngraph attention                                                  # mini-BLIP on drawn scenes
    attngraph attention --adapter runs/ablation-quick/cells/pgnn/vqa/seed0 --out runs/pgnn    # M beside M̄
    attngraph attention --images photos --tokens first answer 4 --out runs/photos
    attngraph attention --data scenes --task vqa --layers '*layer.0*' --heads 1 --out runs/head-1

Unless images, texts or a task are given, the texts are questions about one object of each scene. It is known
where that is, and it is measured how much of each map lies inside. Written are ``maps_*.png``, ``maps.csv``
and ``viewer.html``, and ``mass.csv``, ``summary.csv`` and ``mass.png`` where something was measured.
Gradients of all layers are held at once: for large models make ``--batch`` small.

Drawn is the view of a text's tokens where text looks at the image by cross-attention (BLIP,
VisionEncoderDecoder) or shares a sequence with it (LLaVA, Qwen2-VL, ViLT), through the queries in between
where there are some (BLIP-2), and that of the image's [CLS] node where an image is read alone (ViT, CLIP).
Pictures cut into tiles are not covered, nor windows (Swin).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from analysis.maps import mass_summary
from analysis.plots.maps import draw_mass
from analysis.viewer import write_viewer
from attngraph.errors import UserError
from experiments.base.arguments import EachOnce, positive
from experiments.base.outputs import Outputs
from experiments.inspect.maps import ask, collect_maps, draw_queries, mass_lines
from experiments.inspect.source import add_source_arguments, brings_own, open_source, settings_of
from experiments.scenes.scene import Thing

NAMES = ("maps.csv", "viewer.html", "maps_*.png", "mass.csv", "summary.csv", "mass.png")
ASKED = "questions about one object"
NAMED_TOKENS = ("first", "answer", "last")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph attention``."""
    add_source_arguments(parser, Path("runs/attention"), layers="those that lead to the image", task=ASKED)
    parser.set_defaults(examples=256, batch=8)
    parser.add_argument(
        "--tokens",
        nargs="+",
        action=EachOnce,
        metavar="TOKEN",
        help="Draw the maps of these tokens: first (the first token that sees the image), answer (the token "
        "from which the answer's first token is predicted), last, or numbers of tokens from 0. Default: "
        "first, and answer where it is known, else a decoder's last.",
    )
    parser.add_argument("--pictures", type=positive, default=4, metavar="N", help="Draw this many examples.")
    parser.epilog = (
        "The maps show the view of a text's tokens where the text looks at the image or shares a sequence "
        "with it, and that of the image's [CLS] node where an image is read alone. The gradient map is that "
        "of the logit of the text's next token, of a classifier's likeliest class, or of an image and its "
        "own text (CLIP); without logits there is none. --layers chooses what the viewer shows, those of "
        "image encoders too; raw attention is read from the last of them that leads to the image."
    )


def run(args: argparse.Namespace) -> int:
    """``attngraph attention``."""
    tokens = _tokens(args)
    outputs = Outputs(args.out, "attention", settings_of(args, ASKED), NAMES)
    with outputs.alone():
        return _draw(args, tokens, outputs)


def _draw(args: argparse.Namespace, tokens: list[str] | None, outputs: Outputs) -> int:
    """Draw into a folder that is checked."""
    asked = args.task is None and not brings_own(args)
    source = open_source(args)
    things: dict[str, Thing] = {}
    if asked and all(sample.scene is not None for sample in source.samples):
        source.samples, things = ask(source.samples, args.seed)
    result = collect_maps(source, tokens, things, args.pictures)

    model = f"{source.title} with adapters" if source.adapters else source.title
    summary = mass_summary(result.mass, seed=args.seed) if len(result.mass) else None
    written = ["maps.csv", "viewer.html"]
    with outputs.writing() as out:
        result.maps.to_csv(out / "maps.csv", index=False, float_format="%.8g")
        first = result.last if result.last in result.shown[0].sides else None
        title = f"Attention graphs of {model}"
        write_viewer(out / "viewer.html", result.shown, title, source.heads, first=first)
        has_prompts = any(sample.prompt for sample in source.samples)
        written += draw_queries(result, model, out, has_prompts)
        if summary is not None:
            result.mass.to_csv(out / "mass.csv", index=False, float_format="%.8g")
            summary.to_csv(out / "summary.csv", index=False, float_format="%.8g")
            draw_mass(summary, out / "mass.png", f"{model}: share of each map inside the asked object")
            written += ["mass.csv", "summary.csv", "mass.png"]
    if summary is not None:
        print(mass_lines(summary))
    print(f"raw attention is that of {result.last}")
    if not result.scored:
        print(f"no gradient map: {source.title} gives no logits for the tokens of its text, nor for classes")
    source.report_skipped()
    print(f"written: {args.out}/{', '.join(written)}")
    return 0


def _tokens(args: argparse.Namespace) -> list[str] | None:
    for token in args.tokens or ():
        if token not in NAMED_TOKENS and not token.isdecimal():
            raise UserError(f"--tokens {token}: give first, answer, last, or the number of a token, from 0")
    return args.tokens
