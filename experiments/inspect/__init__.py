"""What the analysis commands look at: models and samples, what their nodes are, and the reports.

- ``source``: a model on images and texts, and the attention graphs that they give; the shared options
- ``words``: which words and patches the nodes of a graph are
- ``labels``, ``regions``: the nodes' classes, and which patches are relevant for a word
- ``statistics``, ``points``, ``maps``: of ``attngraph heterophily``, ``tsne`` and ``attention``
"""
