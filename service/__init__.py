"""The HTTP service: upload, embed, gallery, ranked answer. Runs without torch."""
