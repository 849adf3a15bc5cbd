"""The methods of the tables, in the order of their rows."""

from __future__ import annotations

from typing import Any

from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from attngraph.adapters.scheme import SCHEMES
from attngraph.experiments.base.messages import check_known
from attngraph.experiments.methods.method import (
    ATTRIBUTION,
    METHODS,
    OTHERS,
    REFERENCE,
    VARIANTS,
    Method,
    canonical,
    known_methods,
    peft_types,
    register,
)
from attngraph.experiments.methods.own_weights import Frozen, FullFineTuning, LanguageSide, Majority
from attngraph.experiments.methods.peft import ConfigMethod, GraphAdapter, Lora, OtherRate, ResidualAlone
from attngraph.experiments.methods.prefix import PrefixMethod

RATES = (3e-3, 1e-2)  # with which the search of an adapter begins
WIDTH = 768  # of the model in the paper


def _alone(name: str, title: str, note: str, kind: type[GraphAdapter] = GraphAdapter, **own: Any) -> Method:
    """A row that differs from pGNN in one component, to isolate its effect. Its learning rates are chosen on
    validation data like those of the others; its other settings are pGNN's.
    """
    usual = {"group": ATTRIBUTION, "gnn": "pgnn", "follows": "pgnn", "rates": RATES}
    return kind(name=name, title=title, note=note, **usual | own)


def _variant(name: str, title: str, note: str, gnn: str = "pgnn", **options: Any) -> GraphAdapter:
    """A row of a small table: GCN or pGNN with another value of one option, and otherwise its chosen settings
    and learning rates.
    """
    return GraphAdapter(name=name, title=title, note=note, group=VARIANTS, gnn=gnn, follows=gnn, **options)


GNNS = (
    # With ``blend`` GCN is what it is with ``replace``: its output is the attention output.
    GraphAdapter(name="gcn", title="GCN", gnn="gcn", tried=({},), joins=("replace", "gated"), rates=RATES),
    GraphAdapter(
        name="appnp", title="APPNP", gnn="appnp", tried=({"alpha": 0.1}, {"alpha": 0.3}), rates=RATES
    ),
    # With ``gated`` GCNII is APPNP: its own way to combine does not apply there.
    GraphAdapter(
        name="gcnii",
        title="GCNII",
        gnn="gcnii",
        tried=({"alpha": 0.1, "theta": 0.5}, {"alpha": 0.3, "theta": 0.5}),
        joins=("replace", "blend"),
        rates=RATES,
    ),
    GraphAdapter(
        name="pgnn",
        title="pGNN",
        gnn="pgnn",
        tried=({"p": 1.5, "mu": 0.1}, {"p": 1.5, "mu": 1.0}),
        rates=RATES,
    ),
)

#: Effects of pGNN's components. The first two are controls: pGNN without the information of distances.
PARTS = (
    _alone(
        "tempering",
        "Tempering alone",
        "pGNN with weights M^(p/2): every distance R is 1",
        gnn="tempering",
        control=True,
    ),
    _alone(
        "placebo",  # its name in the runs of before
        "Rotated queries",
        "pGNN with distances R to randomly rotated queries, otherwise unchanged",
        gnn="rotated",
        control=True,
    ),
    _alone(
        "p2",
        "Normalisation alone (p = 2)",
        "pGNN with p = 2 and no residual: only normalisation by the graph's degrees",
        fixed={"p": 2.0, "mu": 0.0, "learn_p": False},
    ),
    _alone(
        "residual",
        "Residual alone",
        "attention output plus a fraction of the query's features, no degrees, no re-weighting",
        gnn="residual",
        kind=ResidualAlone,
    ),
    _alone("mean_degree", "Mean degrees", 'pGNN with degree="mean"', fixed={"degree": "mean"}),
    _alone(
        "rescaled",
        "Rescaled to |U|",
        "pGNN whose output has the length of the attention output",
        rescale=True,
    ),
    _alone("pgnn_replace", "pGNN, replace", "the paper's join", join="replace"),
    _alone("pgnn_gated", "pGNN, gated", "the released code's join, repaired", join="gated"),
    _alone("gcn_gated", "GCN, gated", "the vanilla adapter with the same gate", gnn="gcn", join="gated"),
    _alone(
        "rate",
        "Learning rate alone",
        "GCN, the vanilla adapter, with pGNN's learning rates",
        gnn="gcn",
        kind=OtherRate,
        rates=(),
    ),
    _alone(
        "fixed_p",
        "Fixed p",
        "pGNN with p fixed at its initial value",
        fixed={"learn_p": False},
        rates=(),
    ),
    _alone(
        "learned_p",
        "Learned p",
        "the pGNN row's runs with the seeds of these rows",
        repeats="pgnn",
        rates=(),
    ),
)

SMALL = (
    PrefixMethod(name="prefix", title="Prefix tuning", group=OTHERS, rates=(3e-2, 1e-1), default_rate=1e-1),
    Lora(name="lora", title="LoRA", group=OTHERS, rates=(1e-3, 3e-3), default_rate=3e-3),
    ConfigMethod(
        name="dora",
        title="DoRA",
        note="LoRA with separately trained column norms",
        peft_type="LORA",
        options={"r": 8, "lora_alpha": 16, "use_dora": True},
    ),
    ConfigMethod(
        name="prompt_tuning",
        title="Prompt tuning",
        note="learned tokens before each text, initialised with embeddings of random words",
        peft_type="PROMPT_TUNING",
        options={"num_virtual_tokens": 16, "prompt_tuning_init": "SAMPLE_VOCAB"},
        rates=(3e-2, 1e-1),
        default_rate=1e-1,
    ),
    ConfigMethod(
        name="p_tuning",
        title="P-tuning",
        note="learned tokens before each text, from an MLP",
        peft_type="P_TUNING",
        options={"num_virtual_tokens": 16},
        rates=(3e-3, 1e-2),
        default_rate=1e-2,
    ),
)

#: Types of PEFT whose papers spell their names otherwise than its classes do.
TITLES = {
    "ADALORA": "AdaLoRA",
    "IA3": "(IA)³",
    "LN_TUNING": "LN tuning",
    "RANDLORA": "RandLoRA",
    "VERA": "VeRA",
}

#: Rows of the tables *position* (pGNN is in all places), *width*, *concat* (pGNN has the queries in the query
#: rows of the node features) and *p* (pGNN learns p).
SMALL_TABLES = (
    *(
        _variant(f"position_{name}", title, f"pGNN: {note}", positions=positions)
        for name, title, positions, note in (
            ("ffn", "FFN only", ("ffn",), "the vanilla adapter after the feed-forward blocks"),
            ("self", "FFN + self-attention", ("self", "ffn"), "no adapter after cross-attention"),
            ("cross", "FFN + cross-attention", ("cross", "ffn"), "no adapter after self-attention"),
        )
    ),
    *(
        _variant(
            f"{gnn}_r{reduction}",
            f"{title}, width 1/{reduction}",
            f"bottlenecks of 1/{reduction} of the model's width: {WIDTH // reduction} of {WIDTH}",
            gnn,
            reduction=reduction,
        )
        for gnn, title in (("gcn", "GCN"), ("pgnn", "pGNN"))
        for reduction in (64, 32, 16, 8)
    ),
    *(
        _variant(f"pgnn_{rows}", f"{title} as query rows", f"pGNN with {note}", query_rows=rows)
        for rows, title, note in (
            ("zero", "Zeros", "zeros for the queries in distances and residual"),
            (
                "noise",
                "Noise",
                "noise with the queries' lengths, fixed for each position, in distances and residual",
            ),
        )
    ),
    *(
        _variant(
            f"pgnn_p{100 * p:.0f}",
            f"p = {p:g}, fixed",
            f"pGNN with p fixed at {p:g}",
            fixed={"p": p, "learn_p": False},
        )
        for p in (1.25, 1.5, 1.75)
    ),
)

REFERENCES = (
    Frozen(name="frozen", title="Frozen model", group=REFERENCE, trains=False),
    LanguageSide(
        name="decoder",
        title="Decoder fine-tuning",
        group=REFERENCE,
        note="all modules that read and write text are trained (BLIP's text decoder; mPLUG's text encoder, "
        "fusion and decoder), the image encoder is frozen",
    ),
    FullFineTuning(name="full", title="Full fine-tuning", group=REFERENCE),
    LanguageSide(
        name="text",
        title="Text only",
        group=REFERENCE,
        note="decoder fine-tuning with image features set to zero",
        follows="decoder",
        rates=(),
        hides_image=True,
    ),
    Majority(
        name="majority",
        title="Majority class",
        group=REFERENCE,
        trains=False,
        note="the most frequent training answer for every input",
    ),
)

for method in (*GNNS, *PARTS, *SMALL, *SMALL_TABLES, *REFERENCES):
    register(method)


def method_named(name: str) -> Method:
    """The method of a name or of an alias. Any other registered scheme is a row with the vanilla adapter's
    settings, and so is each of PEFT's methods (``ia3``, ``oft`` ...), with PEFT's default settings.

    Raises:
        UserError: the name is not a method, a scheme or a type of PEFT's configurations.
    """
    name = canonical(name)
    if name in METHODS:
        return METHODS[name]
    check_known([name], known_methods(), "method")
    if name not in SCHEMES:
        kind = peft_types()[name]
        title = TITLES.get(kind, PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)].__name__.removesuffix("Config"))
        return ConfigMethod(name=name, title=title, peft_type=kind)
    return GraphAdapter(name=name, title=name, gnn=name, follows="gcn")
