"""Watchlists and alerts: what they are, and the comparison that every gallery engine shares."""
