"""How fast attention, message passing on it and training steps are, ours and others', as ratios within one run."""
