"""Where the p-adapter sits: the rows of the table *position* beside pGNN, which sits in all places."""

from experiments.methods.graph_adapter import variant
from experiments.methods.method import register

PLACES = {
    "position_ffn": ("FFN only", ("ffn",), "the vanilla adapter after the feed-forward blocks"),
    "position_self": ("FFN + self-attention", ("self", "ffn"), "no adapter after cross-attention"),
    "position_cross": ("FFN + cross-attention", ("cross", "ffn"), "no adapter after self-attention"),
}
for name, (title, positions, note) in PLACES.items():
    register(variant(name, title, f"pGNN: {note}", positions=positions))
