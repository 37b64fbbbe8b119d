"""Publishing: `push_folder` sends a finished model to the Hub and checks what arrived."""

from .errors import PublishError
from .folder_card import write_model_card
from .known_data import DataDescription, describe_data
from .model_card import RetrievalResult, render_model_card
from .push import PushResult, push_folder

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
