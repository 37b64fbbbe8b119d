"""What travels with a checkpoint: configuration, model, processor and the files they need."""
