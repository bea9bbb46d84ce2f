"""Readers of files that other programs and people write: tracks, and manifests of tracklets."""
