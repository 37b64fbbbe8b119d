"""Pins: every code block on every page runs as it stands, in order, on the bundled sample: Python and Bash are run,
YAML is read (and written where its first line names a file). `console` is for what needs the network, a second
machine or an installation, and is not run. Links between pages hold (`make docs` builds the site strictly)."""

import re
from pathlib import Path

import pytest
import yaml
from interpreters import run_python
from page_blocks import READ_ONLY, blocks_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
NEEDS_HUB = {"publishing.md"}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)], ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page, workplace, hub_environment, monkeypatch):
    if page.name in NEEDS_HUB:
        hub_environment(monkeypatch)
    program = program_of(page, workplace)
    done = run_python(program, cwd=workplace, timeout=900)
    assert done.returncode == 0, f"{page.name}:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def program_of(page, workplace):
    """All of a page's blocks as one program, so that a later block has what an earlier one has made."""
    parts = []
    for language, code in blocks_of(page):
        if language == "python":
            parts.append(code)
        elif language == "bash":
            command = ["bash", "-euo", "pipefail", "-c", code]
            parts.append(f'__import__("subprocess").run({command!r}, check=True)')
        elif language == "yaml":
            assert yaml.safe_load(code), code
            if match := re.match(r"# (\S+\.yaml)\n", code):
                (workplace / match[1]).write_text(code)
        else:
            assert language in READ_ONLY, f"{page.name}: a block in {language!r}"
    return "\n".join(parts)


def test_every_page_is_in_the_menu():
    menu = re.findall(r"([\w-]+\.md)", (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[1])
    assert {page.name for page in PAGES} | {"changes.md"} == set(menu)


def test_the_table_of_training_arguments_is_made_from_the_dataclass(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_site"))
    import hooks

    table = hooks.training_arguments_table().splitlines()
    names = {line.split("`")[1] for line in table[2:]}
    assert {"captions_per_image", "feature_cache", "per_device_train_batch_size"} <= names
    assert "adam_beta1" not in names, "transformers' own default"
    assert all(line.rstrip(" |").count("|") == 3 for line in table[2:]), "each has its help"
