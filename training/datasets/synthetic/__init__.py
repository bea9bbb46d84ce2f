"""A small dataset that the project draws itself: people who walk past several cameras."""
