"""Retrieval, zero-shot classification, pictures and reports for image-text models."""
