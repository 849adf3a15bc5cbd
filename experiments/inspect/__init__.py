"""What the analysis commands look at: models and samples, what their nodes are, and the reports.

For all three commands:

- ``options``: the options that they share, and what they open
- ``samples``: images and texts of the user's own, or of a data set
- ``adapted``: saved graph adapters, put into a model
- ``source``: a model and the samples that it runs on, their batches and attention graphs
- ``calls_as_examples``: image encoders that are called for one picture after another
- ``words``: which words and patches the nodes of a graph are
- ``tagger``: parts of speech by spaCy

For ``attngraph heterophily``: ``labeller`` (the classes of nodes), ``measurement`` (graphs to statistics),
``heterophily_report`` (tables on screen, figures).

For ``attngraph tsne``: ``point_clouds`` (nodes' features as points), ``embedding_maps`` (maps and their
measures), ``embedding_report`` (notes on the figures, measures on screen).

For ``attngraph attention``: ``questions`` (about one object, and where it is), ``views`` (what the tokens of
a batch look at), ``attention_maps`` (the maps of all samples), ``viewer_examples`` (samples for the viewer),
``attention_report`` (figures, masses on screen).
"""
