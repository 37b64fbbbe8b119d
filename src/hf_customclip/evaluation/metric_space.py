"""The packaged `evaluate` metric: where it is, and a copy of it that stands on its own as a metric Space."""

import os
import shutil
from pathlib import Path

from . import retrieval

METRIC_PATH = str(Path(__file__).with_name("image_text_retrieval"))
"""`evaluate.load(METRIC_PATH)` loads the metric; no network is needed."""

_FILES = ("image_text_retrieval.py", "app.py", "requirements.txt", "README.md")


def export_retrieval_metric(directory: str | os.PathLike[str]) -> Path:
    """Write the metric as a folder that needs no installed `hf_customclip`, and return that folder.

    The folder is `directory/image_text_retrieval`: `evaluate.load` wants a script named as its folder.
    """
    folder = Path(directory) / "image_text_retrieval"
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        shutil.copyfile(Path(METRIC_PATH) / name, folder / name)
    shutil.copyfile(retrieval.__file__, folder / "retrieval.py")
    script = folder / "image_text_retrieval.py"
    code = script.read_text(encoding="utf-8")
    script.write_text(
        code.replace("from hf_customclip.evaluation.retrieval", "from .retrieval"), encoding="utf-8"
    )
    return folder


def push_retrieval_metric(
    repo_id: str, *, private: bool | None = None, token: str | None = None, endpoint: str | None = None
) -> str:
    """Publish the metric as the Space `repo_id` ("user/image_text_retrieval") and return the commit's URL.

    Afterwards `evaluate.load(repo_id)` works anywhere, provided that the Space's name is the script's.

    Raises:
        ValueError: the name after the slash is not `image_text_retrieval`.
    """
    from tempfile import TemporaryDirectory

    from huggingface_hub import HfApi

    if repo_id.split("/")[-1] != "image_text_retrieval":
        raise ValueError(
            f"A metric Space must be named as its script, so the repository must be "
            f"'<user>/image_text_retrieval', not {repo_id!r}."
        )
    api = HfApi(endpoint, token=token)
    api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
    with TemporaryDirectory() as directory:
        folder = export_retrieval_metric(directory)
        commit = api.upload_folder(repo_id=repo_id, repo_type="space", folder_path=folder)
    return commit.commit_url
