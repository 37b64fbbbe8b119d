"""`hf-customclip serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Model

HELP = """Answer embedding and zero-shot requests over HTTP, as OpenAI's API does.

\b
    hf-customclip serve outputs/sample --port 8000
    curl 127.0.0.1:8000/v1/embeddings -H 'Content-Type: application/json' \\
        -d '{"input": ["a cat", {"image": "<base64>"}]}'

Listens on this machine alone (127.0.0.1) unless --host says otherwise: there
is no password. Needs: pip install 'hf-customclip[serve]'
"""


def serve(
    model: Model,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any free one.")] = 8000,
) -> None:
    """Load the model and serve it until Ctrl-C."""
    try:
        import uvicorn

        from ..serve import build_app
    except ImportError as error:
        raise ImportError(
            f"Serving needs {error.name}, which is not installed: pip install 'hf-customclip[serve]'"
        ) from None
    from .. import CustomClipModel  # noqa: F401 - registers the Auto classes
    from ..hub.handler import EndpointHandler

    name = Path(model).name if Path(model).is_dir() else model
    app = build_app(EndpointHandler(model), name)
    uvicorn.run(app, host=host, port=port, timeout_keep_alive=5, limit_concurrency=256)
