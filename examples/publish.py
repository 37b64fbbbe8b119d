"""Publish a trained model: card, push, verify, and load it again as anybody would.

    python examples/publish.py outputs/sample user/my-clip

Needs a token that may write: `hf auth login`, or HF_TOKEN. Publishing again is harmless: what is there
already is compared and not sent. `hf-customclip push FOLDER REPO` does the same without the loading.
"""

import sys
from pathlib import Path

from huggingface_hub import HfApi
from transformers import AutoModel, AutoProcessor

import hf_customclip  # noqa: F401 - registers the model with transformers
from hf_customclip.hub import PublishError, describe_data, push_folder, write_model_card


def publish(folder: Path, repo_id: str, source: str | None = None) -> None:
    """Publish the model in `folder`; `source` is the data set that it was trained on, for the card."""
    api = HfApi()
    write_model_card(folder, repo_id, data=describe_data(source) if source else None, api=api)
    result = push_folder(folder, repo_id, api=api)
    print(result.commit_url if result.is_new_commit else f"nothing new: {result.commit_url}")

    model = AutoModel.from_pretrained(result.repo_id, revision=result.oid)
    AutoProcessor.from_pretrained(result.repo_id, revision=result.oid)
    print(f"{result.repo_id} loads: {sum(p.numel() for p in model.parameters()):,} parameters")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    try:
        publish(Path(sys.argv[1]), *sys.argv[2:])
    except PublishError as error:
        sys.exit(f"error: {error}")
