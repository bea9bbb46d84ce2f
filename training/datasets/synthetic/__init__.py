"""A small synthetic dataset: drawn people who walk past several cameras."""
