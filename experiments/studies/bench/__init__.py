"""Benchmarks: the time of attention, of message passing and of training steps, as ratios within one run."""
