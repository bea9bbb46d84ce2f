"""The vector index of the embedded gallery: flat, IVF, and their files."""
