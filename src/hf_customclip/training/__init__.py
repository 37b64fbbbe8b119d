"""Training: transformers' Trainer with contrastive batches, losses and metrics."""
