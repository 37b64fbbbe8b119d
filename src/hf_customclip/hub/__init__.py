"""Publishing: `push_folder` sends a finished model to the Hub and checks what arrived."""

from .errors import PublishError
from .known_data import DataDescription, describe_data
from .model_card import render_model_card, write_model_card
from .push import PushResult, push_folder
from .results import RetrievalResult

__all__ = [
    "DataDescription",
    "PublishError",
    "PushResult",
    "RetrievalResult",
    "describe_data",
    "push_folder",
    "render_model_card",
    "write_model_card",
]
