"""Reading the attention of a running model as graphs.

- :mod:`~attngraph.reading.reader`: :func:`attngraph.capture` and :func:`attngraph.record`;
- :mod:`~attngraph.reading.instrument`: makes a model's attention layers visible, and puts it back as it was;
- :mod:`~attngraph.reading.attend`: the attention of an instrumented model, which calls the listeners;
- :mod:`~attngraph.reading.calls`: what listeners get, a call of one layer, and the graph that it is;
- :mod:`~attngraph.reading.watch`: attention that does not use transformers' ``AttentionInterface``;
- :mod:`~attngraph.reading.state`: what an instrumented model and its layers know while they run;
- :mod:`~attngraph.reading.families`: what has to be told of single families.

What a call needs to know has a module each: its mask (:mod:`~attngraph.reading.masks`), queries before rotary
embedding (:mod:`~attngraph.reading.projection`), the output projection (:mod:`~attngraph.reading.outputs`),
what its nodes stand for (:mod:`~attngraph.reading.modality`), and degrees of earlier decoding steps
(:mod:`~attngraph.reading.degree_cache`).
"""
