"""Import models and weights of other programs."""
