"""Cached features: frozen towers run once, and their outputs stand in for images and captions."""
