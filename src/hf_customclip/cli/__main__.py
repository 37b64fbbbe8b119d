"""`python -m hf_customclip.cli`, and so `accelerate launch -m hf_customclip.cli`."""

from .app import main

if __name__ == "__main__":
    main()
