"""Kept features: frozen towers run once, and their outputs stand in for pictures and captions."""
