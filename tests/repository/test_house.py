"""Pins the architecture: a room imports only rooms below it, whether at the top of a file or inside a function, so
there is no circle; modelling files import only torch, torchvision, transformers, the standard library and each
other; importing the package loads neither torch nor transformers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hf_customclip

PACKAGE = Path(hf_customclip.__file__).parent
# From the ground up. What stands in one line are neighbours that do not import each other.
FLOORS = [
    ("_digests", "_files", "_lazy", "_registration"),
    ("plotting", "_safetensors"),
    ("modeling",),
    ("towers",),
    ("data",),
    ("inference",),
    ("features",),
    ("evaluation",),
    ("hub",),
    ("training",),
    ("search",),
    ("moderation",),
    ("export", "serve"),
    ("demo",),
    ("cli",),
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# What every supported transformers brings along.
TRAVELLING = {"torch", "torchvision", "transformers", "safetensors", "huggingface_hub"}


def room_of(path):
    part = path.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


def imports_of(path):
    """(line, room) of every import from inside the package, and (line, name) of those from outside."""
    inside, outside = [], []
    package = ["hf_customclip", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            outside += [(node.lineno, alias.name.split(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            outside.append((node.lineno, (node.module or "").split(".")[0]))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] + (node.module or "").split(".")
            names = [base] if node.module else [[*base[:-1], alias.name] for alias in node.names]
            inside += [(node.lineno, name[1]) for name in names if len(name) > 1]
    return inside, outside


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


@pytest.mark.parametrize("room", sorted({room_of(path) for path in FILES}))
def test_a_room_imports_only_rooms_below_it(room):
    assert room in FLOOR, f"{room} has no floor in FLOORS"
    upwards = [
        f"{path.relative_to(PACKAGE)}:{line} imports {other}"
        for path in FILES
        if room_of(path) == room
        for line, other in imports_of(path)[0]
        if other in FLOOR and other != room and FLOOR[other] >= FLOOR[room]
    ]
    assert upwards == []


def test_modelling_files_travel():
    foreign = [
        f"{path.name}:{line} imports {name}"
        for path in sorted((PACKAGE / "modeling").glob("*_custom_clip.py"))
        for line, name in imports_of(path)[1]
        if name not in TRAVELLING and name not in sys.stdlib_module_names
    ]
    assert foreign == []


def test_no_circle_between_modules():
    """Of imports at the top of files; those inside functions are made when the files are whole."""
    graph = {path: top_level_imports(path) for path in PACKAGE.rglob("*.py")}
    done, active = set(), []

    def visit(path):
        if path in active:
            circle = [step.relative_to(PACKAGE).as_posix() for step in active[active.index(path) :]]
            raise AssertionError(f"a circle: {' -> '.join(circle)}")
        if path not in done:
            active.append(path)
            for other in graph[path]:
                visit(other)
            active.pop()
            done.add(path)

    for path in graph:
        visit(path)
    assert len(done) > 50


def top_level_imports(path):
    """The package's own files that this one imports when it is imported."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        base = path.parent
        for _ in range(node.level - 1):
            base = base.parent
        target = base.joinpath(*(node.module or "").split(".")) if node.module else base
        for file in (target.with_suffix(".py"), *(target / f"{alias.name}.py" for alias in node.names)):
            if file.is_file():
                found.add(file)
    return found


def test_importing_the_package_is_cheap():
    code = "import hf_customclip, sys; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
