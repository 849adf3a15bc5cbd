"""Input and reports of the analysis commands: models and samples, the meaning of nodes, and results.

- ``source``: a model with images and texts, and their attention graphs; the shared options
- ``words``: the words and patches of a graph's nodes
- ``labels``, ``regions``: the nodes' classes, and the relevant patches for a word
- ``statistics``, ``points``, ``attention``: reports of ``attngraph heterophily``, ``tsne`` and ``attention``
"""
