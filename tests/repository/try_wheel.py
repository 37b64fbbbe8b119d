"""Try a built wheel where nothing else is installed: alone, and then each of its extras alone.

python tests/repository/try_wheel.py dist/          (`make build` runs it)

Prints what the wheel holds. Alone it has to import, answer `--help`, and train, save and load a tiny model. Each
extra is installed into an environment of its own above that one, and what it brings has to import.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
BASE = Path(".venv-wheel")
# What an extra is there for; an extra that is not listed fails, so that a new one is tried too.
IMPORTS = {
    "plots": "matplotlib",
    "metric": "evaluate",
    "sample": "timm",
    "search": "hf_customclip.search",
    "lora": "peft",
    "demo": "gradio",
    "export": "onnxruntime",
    "serve": "hf_customclip.serve",
    "ray": "hf_customclip.features.ray_extraction, ray.data",
    "docs": "mkdocs",
}
LEFT_OUT = ("dev",)  # for working on the package: the tests try it


def main() -> None:
    (wheel,) = Path(sys.argv[1]).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            print(f"{entry.file_size:>8,}  {entry.filename}")
        metadata = next(name for name in archive.namelist() if name.endswith("METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    python = make_environment(BASE)
    install(python, str(wheel))
    run(python, "-c", "import hf_customclip; print(hf_customclip.__version__)")
    run(python.with_name("hf-customclip"), "--help")
    run(python, str(HERE / "tiny_run.py"))
    for extra in (line.split()[1] for line in lines if line.startswith("Provides-Extra:")):
        if extra in LEFT_OUT:
            continue
        above = make_environment(Path(f"{BASE}-{extra}"))
        (site_packages(above) / "base.pth").write_text(f"{site_packages(python)}\n")
        install(above, f"{wheel}[{extra}]")
        run(above, "-c", f"import hf_customclip.training.trainer, {IMPORTS[extra]}")
        print(f"extra {extra}: ok", flush=True)


def make_environment(folder: Path) -> Path:
    """A new virtual environment; the path of its Python."""
    venv.create(folder, with_pip=True, clear=True)
    return folder.resolve() / "bin" / "python"


def site_packages(python: Path) -> Path:
    """Where an environment's packages lie."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return python.parents[1] / "lib" / version / "site-packages"


def install(python: Path, requirement: str) -> None:
    """By pip, as a user does."""
    subprocess.run([python, "-m", "pip", "install", "--quiet", requirement], check=True)


def run(program: Path, *arguments: str) -> None:
    """In an empty folder and without this checkout on the path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([program, *arguments], check=True, env=environment, cwd=program.parent)


if __name__ == "__main__":
    main()
