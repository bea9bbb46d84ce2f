"""Benchmarks of recognition: accuracy, what each part of the recipe brings, fine-tuning for a site, open questions."""
