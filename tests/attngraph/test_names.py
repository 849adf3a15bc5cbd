"""Names in any spelling, and near misses."""

import pytest

from attngraph.adapters import GraphAdapterConfig
from attngraph.errors import UserError
from attngraph.experiments.methods import method_named
from attngraph.names import did_you_mean, spelled


def test_a_spelling_is_found_unless_two_names_share_it():
    known = ["gcn", "pgnn_p125", "A-b", "a_b"]
    assert [spelled(name, known) for name in ("GCN", "pGNN p1.25", "a_b", "gcn")] == [
        *("gcn", "pgnn_p125", "a_b", "gcn")
    ]
    assert spelled("ab", known) == "ab" and spelled("gc", known) == "gc"
    assert did_you_mean("GCNN", known) == " (did you mean gcn?)" and not did_you_mean("x", known)


@pytest.mark.parametrize(
    "name, gnn", [("GCN", "gcn"), ("p-adapter", "pgnn"), ("pGNN", "pgnn"), ("Adapter", "gcn")]
)
def test_names_of_papers_are_schemes_and_methods(name, gnn):
    assert GraphAdapterConfig(gnn=name).gnn == method_named(name).name == gnn


def test_an_unknown_name_of_a_scheme_has_a_near_one():
    with pytest.raises(UserError, match=r"unknown gnn 'pgn' \(did you mean pgnn\?\): choose one of"):
        GraphAdapterConfig(gnn="pgn")
