"""Models and weights of other programs."""
