"""Frames in, one vector out. Nothing here knows HTTP."""
