"""Draw where a model looks: attention, rollout and gradient-weighted relevance, over the pictures.

Unless images, texts or a task are given, the texts are questions about one object of each scene. It is known
where that is, and it is measured how much of each map lies inside. Gradients of all layers are held at once:
for large models make ``--batch`` small. ``docs/maps.md`` says whose view is drawn.
"""

from __future__ import annotations

from analysis.maps import mass_summary
from analysis.plots.maps import draw_mass
from analysis.viewer import write_viewer
from attngraph.errors import UserError
from experiments.base.outputs import Outputs
from experiments.commands.options import AttentionOptions
from experiments.inspect.maps import ask, collect_maps, draw_queries, mass_lines
from experiments.inspect.source import brings_own, open_source, settings_of
from experiments.scenes.scene import Thing

NAMES = ("maps.csv", "viewer.html", "maps_*.png", "mass.csv", "summary.csv", "mass.png")
ASKED = "questions about one object"
NAMED_TOKENS = ("first", "answer", "last")


def run(options: AttentionOptions) -> int:
    """``attngraph attention``."""
    tokens = _tokens(options)
    outputs = Outputs(options.out, "attention", settings_of(options, ASKED), NAMES)
    with outputs.alone():
        return _draw(options, tokens, outputs)


def _draw(options: AttentionOptions, tokens: list[str] | None, outputs: Outputs) -> int:
    """Draw into a folder that is checked."""
    asked = options.task is None and not brings_own(options)
    source = open_source(options)
    things: dict[str, Thing] = {}
    if asked and all(sample.scene is not None for sample in source.samples):
        source.samples, things = ask(source.samples, options.seed)
    result = collect_maps(source, tokens, things, options.pictures)

    model = f"{source.title} with adapters" if source.adapters else source.title
    summary = mass_summary(result.mass, seed=options.seed) if len(result.mass) else None
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
    print(f"written: {options.out}/{', '.join(written)}")
    return 0


def _tokens(options: AttentionOptions) -> list[str] | None:
    for token in options.tokens:
        if token not in NAMED_TOKENS and not token.isdecimal():
            raise UserError(f"--tokens {token}: give first, answer, last, or the number of a token, from 0")
    return [*options.tokens] or None
