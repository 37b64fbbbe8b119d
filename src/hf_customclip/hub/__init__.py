"""Publishing: `push_folder` sends a finished model to the Hub and checks what arrived."""

from .errors import PublishError
from .push import PushResult, push_folder

__all__ = ["PublishError", "PushResult", "push_folder"]
