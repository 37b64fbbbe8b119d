"""The forms that image-caption data come in, one module per family."""
