"""The page as a folder that can be pushed to the Hub as a Space."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

from .. import __version__

APP = '''"""The page of a custom CLIP model; written by `hf-customclip demo --space`."""

from pathlib import Path

from hf_customclip.demo import build_demo
from hf_customclip.demo.page import launch_options
from hf_customclip.inference.load_model import load_model

HERE = Path(__file__).resolve().parent
MODEL = {model}

model, processor = load_model(MODEL)
options = {{"name": {name!r}}}
if (HERE / "index").is_dir():
    from hf_customclip.search import ImageIndex

    options |= {{"index": ImageIndex.load(HERE / "index", model, processor), "images": HERE / "images"}}
if (HERE / "policy").is_dir():
    options["policy"] = HERE / "policy" / "policy.yaml"
page = build_demo(model, processor, **options)

if __name__ == "__main__":
    page.launch(**launch_options())
'''

README = """---
title: {name}
emoji: 🔎
colorFrom: indigo
colorTo: blue
sdk: gradio
sdk_version: {gradio}
app_file: app.py
pinned: false{models}
---

# {name}

A page to try a custom CLIP model on, made with hf-customclip.
"""


def write_space(
    folder: str | Path, model: str, *, index: str | Path | None = None, policy: str | Path | None = None
) -> Path:
    """Write `app.py`, `requirements.txt`, `README.md` and what the page shows into a new folder.

    A model on the Hub stays there; one in a folder is copied. The index is copied with its images, the policy
    with its example images, so that the folder is whole: `hf upload user/name FOLDER --repo-type space`.

    Raises:
        ValueError: the folder is not empty, or the index is another model's, or its images are gone.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"'{folder}' is not empty: name a new folder for the Space.")
    folder.mkdir(parents=True, exist_ok=True)
    local = Path(model).is_dir()
    name = Path(model).resolve().name if local else model
    if local:
        wanted = shutil.ignore_patterns("checkpoint-*", "runs", "optimizer*", ".*")
        shutil.copytree(model, folder / "model", ignore=wanted)
    if index is not None:
        _copy_index(Path(index), model, folder)
    if policy is not None:
        _copy_policy(Path(policy), folder / "policy")
    code = APP.format(model='HERE / "model"' if local else repr(model), name=name)
    extras = "demo" if index is None else "demo,search"
    models = "" if local else f"\nmodels:\n  - {model}"
    (folder / "app.py").write_text(code, encoding="utf-8")
    (folder / "requirements.txt").write_text(f"hf-customclip[{extras}]=={__version__}\n", encoding="utf-8")
    about = README.format(name=name.split("/")[-1], gradio=version("gradio"), models=models)
    (folder / "README.md").write_text(about, encoding="utf-8")
    return folder


def _copy_index(index: Path, model: str, folder: Path) -> None:
    from ..inference.load_model import load_model
    from ..search import ImageIndex

    # With the model, as an index of another one is better refused now than by the Space when it starts.
    opened = ImageIndex.load(index, *load_model(model))
    shutil.copytree(index, folder / "index")
    for batch in opened.table.batches(["id", "path", "thumbnail"]):
        for row in batch.to_pylist():
            path = Path(row["path"] or "")
            if path.is_file():
                target = folder / "images" / row["id"]
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            elif row["thumbnail"] is None:
                raise ValueError(
                    f"The index's image {row['id']!r} has no file, so the Space could not show it."
                )


def _copy_policy(policy: Path, folder: Path) -> None:
    from ..moderation import Policy, PolicyError

    checked = Policy.from_file(policy)
    folder.mkdir()
    shutil.copyfile(policy, folder / "policy.yaml")
    for category in checked.categories:
        for example in category.examples:
            try:
                relative = example.resolve().relative_to(policy.parent.resolve())
            except ValueError:
                raise PolicyError(
                    f"The example image '{example}' must lie beside the policy or below."
                ) from None
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(example, folder / relative)
