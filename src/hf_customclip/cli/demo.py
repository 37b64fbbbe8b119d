"""`hf-customclip demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Model

HELP = """Open a page to try a model on: classify, search, moderate.

\b
    hf-customclip demo outputs/sample
    hf-customclip demo outputs/sample --index my-index --policy policy.yaml
    hf-customclip demo user/my-clip --space my-space
    hf upload user/my-space my-space . --repo-type space

Listens on this machine alone (127.0.0.1) unless --host says otherwise; who
can reach the page can use the model and see the index's images. With
--space a folder is written instead that runs as a Space on the Hub. Needs:
pip install 'hf-customclip[demo]'
"""


def demo(
    model: Model,
    index: Annotated[Path | None, typer.Option(help="What `hf-customclip index` made: adds search.")] = None,
    policy: Annotated[Path | None, typer.Option(help="A policy, a YAML file: adds moderation.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port; by default the first free one from 7860.")] = None,
    space: Annotated[Path | None, typer.Option(help="Write a Space into this new folder instead.")] = None,
) -> None:
    """Load what the page needs and serve it until Ctrl-C."""
    from ..moderation.policy import Policy
    from ..search.table import check_index

    checked_policy = None if policy is None else Policy.from_file(policy)
    if index is not None:
        check_index(index)
    if space is not None:
        from ..demo.space import write_space

        typer.echo(f"wrote {write_space(space, model, index=index, policy=policy)}")
        return
    from ..demo.page import build_demo, launch_options
    from ..inference.load_model import load_model

    loaded, processor = load_model(model)
    options: dict[str, Any] = {"policy": checked_policy, "name": Path(model).name}
    if index is not None:
        from ..search import ImageIndex

        options["index"] = ImageIndex.load(index, loaded, processor)
    page = build_demo(loaded, processor, **options)
    page.launch(server_name=host, server_port=port, share=False, **launch_options())
