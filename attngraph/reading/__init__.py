"""Reading the attention of a running model as graphs.

- :mod:`~attngraph.reading.reader`: :func:`attngraph.capture` and :func:`attngraph.record`;
- :mod:`~attngraph.reading.instrument`: makes a model's attention layers visible, and restores it afterwards;
- :mod:`~attngraph.reading.attend`: the attention of an instrumented model, which calls the listeners;
- :mod:`~attngraph.reading.calls`: the argument of listeners: one call of a layer, and its graph;
- :mod:`~attngraph.reading.watch`: attention that does not use transformers' ``AttentionInterface``;
- :mod:`~attngraph.reading.state`: state of an instrumented model and its layers during a pass;
- :mod:`~attngraph.reading.families`: rules for single model families.

Each part of a call has its module: its mask (:mod:`~attngraph.reading.masks`), queries before rotary
embedding (:mod:`~attngraph.reading.projection`), the output projection (:mod:`~attngraph.reading.outputs`),
the modality of its nodes (:mod:`~attngraph.reading.modality`), and degrees of earlier decoding steps
(:mod:`~attngraph.reading.degree_cache`).

One attention layer in a forward pass, with a graph adapter and :func:`attngraph.record` listening. Observed
attention has weights but no scores, so its adapters always start from ``Call.graph()``. ::

    the model                           reading                            who listens
    ---------                           -------                            -----------
    attention module is called ------>  instrument.py _before: states, cache and
                                        mask in its arguments -> state.py
                                        CurrentPass; starts watch.py Watch, if the
                                        module does not use AttentionInterface
    projections of Q, K, V ---------->  projection.py Projections: Q before it is
                                        rotated or scaled
    attention, one of
      AttentionInterface ------------>  attend.py graph_attention --+
      BLIP, nn.MultiheadAttention --->  attend.py attend -----------+
      softmax, then M V ------------->  watch.py -> _attended ------+
                                                                    |
                                        attend.py _call: masks.py (visible edges,
                                        padding, order in time), state.py
                                        ModelState (self-attention before it)
                                                                    |
                                        calls.py Call --------------+-->  reader.py _Reader._listen:
                                                                    |       Call.graph -> AttentionGraph
                                                                    |
                                                                    +-->  adapters/peft/layer.py
                                                                          OutputLayer.listen ->
                                                                          adapters/adapter.py
                                                                          GraphAdapter.aggregate:
                                        Call.scores() <-------------------  in training and without gradients
                                        Call.graph(), degree_cache.py <---  else; the scheme runs
    continues with Call.context <-----  M V, or what a listener put there
    output projection W_o ------------------------------------------->    OutputLayer.forward joins
                                                                          the scheme's features and M V
    attention module returns -------->  instrument.py _after: ends the call
"""
