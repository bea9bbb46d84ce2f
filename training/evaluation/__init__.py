"""How well a model ranks: embedding of tracklets, metrics and protocols."""
