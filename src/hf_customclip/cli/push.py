"""`hf-customclip push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import takes_options
from .output import Output

HELP = """Publish a saved model, whole or not at all, and compare checksums.

\b
    hf-customclip push outputs/sample user/custom-clip-sample
"""


@takes_options
def push(
    folder: Annotated[Path, typer.Argument(help="A folder that training or save_pretrained wrote.")],
    repo: Annotated[str, typer.Argument(help="user/name on the Hub; created where missing.")],
    printed: Output,
    private: Annotated[
        bool, typer.Option("--private", help="Nobody else may see the repository, if it is created.")
    ] = False,
    license: Annotated[
        str | None,
        typer.Option(help="Licence of the model, such as apache-2.0; the card is written anew with it."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to publish on.")] = None,
    message: Annotated[str, typer.Option(help="Commit message.")] = "Upload CustomClipModel",
) -> None:
    """Write the model card if there is none, or the licence is new; push, verify."""
    from ..hub.model_card import write_model_card
    from ..hub.push import push_folder

    if folder.is_dir() and (license or not (folder / "README.md").exists()):
        write_model_card(folder, repo, license=license)
    result = push_folder(folder, repo, private=private or None, revision=revision, commit_message=message)
    about = {"repo": repo, "commit_url": result.commit_url, "is_new_commit": result.is_new_commit}
    said = "" if result.is_new_commit else f"{repo} has this already: "
    printed.show(table=f"{said}{result.commit_url}", value=about, rows=[about])
    printed.say_next("hf-customclip", "demo", repo, "--space", "my-space")
