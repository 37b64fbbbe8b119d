"""Pins: embed, index and search as commands, in processes of their own: what they print, as text and as JSON, exit
codes, mistakes in one line; a data set's simple columns are metadata; help starts without torch; the example runs;
the drawing shows what was found."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from interpreters import code_of, run_python
from tiny import tiny_dataset

from hf_customclip.cli import main
from hf_customclip.cli.search import sql_of

pytest.importorskip("lancedb")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_images, saved_model):
    """A model, images with metadata and one that cannot be read, and their index."""
    folder = tmp_path_factory.mktemp("search")
    shutil.copytree(saved_model, folder / "model")
    write_images(folder / "images", range(12))
    (folder / "images" / "broken.png").write_bytes(b"x")
    lines = [f"{number}.png,{2000 + number},{'ab'[number % 2]}" for number in range(12)]
    (folder / "images" / "metadata.csv").write_text("\n".join(["file_name,year,brand", *lines]))
    with pytest.raises(SystemExit) as stopped:
        main(["index", str(folder / "model"), str(folder / "images"), str(folder / "index")])
    assert stopped.value.code == 1  # for the one that cannot be read
    return folder


def run(capsys, *arguments):
    """Exit code and standard output, in this process."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


def test_indexing_again_and_what_cannot_be_read(folder, capsys):
    places = (folder / name for name in ("model", "images", "index"))
    code, out, err = run(capsys, "index", *places, "--json", "--batch-size", 5)
    assert code == 1 and err == "Images that could not be read: 1.\n"
    changes = json.loads(out)
    assert changes.pop("unreadable") == {"broken.png": "it is not in an image format that Pillow knows"}
    assert changes == {"added": 0, "changed": 0, "unchanged": 12, "removed": 0}


def test_search_in_a_process_of_its_own(folder):
    code = "import runpy; runpy.run_module('hf_customclip.cli', run_name='__main__')"
    image = str(folder / "images" / "7.png")
    environment = {name: value for name, value in os.environ.items() if "PROGRESS" not in name}
    done = run_python(code, "search", folder / "index", "--image", image, "-k", "3", env=environment)
    assert done.returncode == 0 and done.stderr == "", "no bars when piped"
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and lines[0].split() == ["1.000", image]


def test_a_stored_text_encoder_answers_without_torch(folder, capsys):
    pytest.importorskip("onnxscript")
    pytest.importorskip("torch", minversion="2.14", reason="older ones do not export text towers")
    code, _, _ = run(capsys, "index", folder / "model", folder / "images", folder / "fast", "--text-encoder")
    assert code == 1, "one image cannot be read"
    code = """
import sys
from hf_customclip.cli import main
sys.modules["torch"] = sys.modules["transformers"] = None
main(sys.argv[1:])
"""
    done = run_python(code, "search", folder / "fast", "a large red square", "--json")
    whole = run(capsys, "search", folder / "index", "a large red square", "--json")[1]
    found = [{row["id"]: row["score"] for row in json.loads(out)} for out in (done.stdout, whole)]
    assert found[0] == pytest.approx(found[1], abs=0.05) and next(iter(found[0])) == next(iter(found[1]))
    # An image needs the model, which is then loaded.
    code, out, _ = run(capsys, "search", folder / "fast", "--image", folder / "images" / "7.png", "-k", 1)
    assert code == 0 and out.split() == ["1.000", str(folder / "images" / "7.png")]


def test_filters_json_and_both(folder, capsys):
    search = ("search", folder / "index", "a red circle", "--json", "-k", "20")
    code, out, _ = run(capsys, *search, "--filter", "year>=2004", "--filter", "brand=b,c")
    found = json.loads(out)
    assert code == 0 and {result["metadata"]["year"] for result in found} == {2005, 2007, 2009, 2011}
    assert found == sorted(found, key=lambda result: -result["score"])
    assert found[0].keys() == {"id", "score", "path", "metadata"}
    both = json.loads(run(capsys, *search, "--image", folder / "images" / "3.png")[1])
    words = json.loads(run(capsys, *search)[1])
    assert [result["id"] for result in both] != [result["id"] for result in words]


def test_simple_columns_of_a_data_set_can_be_filtered_by(folder, tmp_path, capsys):
    data = tiny_dataset(6)
    for name, values in {
        "year": [2000, 2001, None, 2003, 2004, 2005],
        "old": [True, False] * 3,
        "kind": list("aabbcc"),
        "path": list("uvwxyz"),  # an index has a column of that name
        "tags": [["x"]] * 6,
    }.items():
        data = data.add_column(name, values)
    (tmp_path / "data").mkdir()
    data.to_parquet(tmp_path / "data" / "test.parquet")
    made = run(capsys, "index", folder / "model", tmp_path / "data", tmp_path / "index", "--dataset")
    assert made[:2] == (0, "6 added, 0 changed, 0 unchanged, 0 removed\n")
    conditions = ("--filter", "year>=2001", "--filter", "old=false", "--filter", "kind=a,b")
    found = json.loads(run(capsys, "search", tmp_path / "index", "red", "--json", *conditions)[1])
    assert {result["metadata"]["year"] for result in found} == {2001, 2003} and len(found) == 2
    assert found[0]["metadata"].keys() == {"captions", "year", "old", "kind"}


def test_the_drawing(folder, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    file = tmp_path / "found.png"
    code, _, err = run(capsys, "search", folder / "index", "red $ x", "--plot", file, "-k", 7)
    assert code == 0 and f"wrote {file}" in err
    with PIL.Image.open(file) as drawn:
        assert drawn.width > drawn.height > 200


def test_embed_writes_parquet(folder, tmp_path, capsys):
    file = tmp_path / "vectors.parquet"
    code, out, _ = run(capsys, "embed", folder / "model", folder / "images", file)
    said = "12 added, 0 changed, 0 unchanged, 0 removed; 1 cannot be read: broken.png ("
    assert code == 1 and out.startswith(said)
    table = pq.read_table(file)
    assert {*table.column_names} == {"id", "path", "state", "year", "brand", "vector"} and len(table) == 12
    code, out, _ = run(capsys, "embed", folder / "model", folder / "images", file)
    assert out.startswith("0 added, 0 changed, 12 unchanged")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["search", "nowhere", "red"], "There is no index in 'nowhere': make one with"),
        (["search", "{index}"], "Say what to look for: words, --image FILE, or both."),
        (
            ["search", "{index}", "red", "--filter", "colour=red"],
            "no column 'colour' to filter by, only id, path",
        ),
        (
            ["search", "{index}", "red", "--filter", "year=old"],
            "column 'year' holds int64, and 'old' is none",
        ),
        (["search", "{index}", "red", "--filter", "year"], "'year' is no condition: write column=value"),
        (
            ["search", "{index}", "--image", "nowhere.png"],
            "nowhere.png cannot be read: there is no such file.",
        ),
        (["embed", "{model}", "{images}", "vectors.csv"], "'vectors.csv' is no .parquet file"),
        (["index", "{model}", "nowhere", "{new}"], "There is no folder of images 'nowhere'"),
    ],
)
def test_mistakes_end_in_one_line(folder, capsys, arguments, said):
    places = {name: folder / name for name in ("index", "model", "images", "new")}
    code, out, err = run(capsys, *(argument.format(**places) for argument in arguments))
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 1 and out == "" and len(errors) == 1 and said in errors[0]
    assert not places["new"].exists(), "no empty index is left"


def test_conditions():
    schema = pa.schema([("year", pa.int64()), ("brand name", pa.string())])
    assert sql_of(None, schema) is None
    assert sql_of(["year>1", "year<=2"], schema) == "`year` > 1 AND `year` <= 2"
    assert sql_of(["brand name=a,o'b", "year != 3,4"], schema) == (
        "(`brand name` IN ('a', 'o''b')) AND NOT (`year` IN (3, 4))"
    )
    assert sql_of(["brand name=a=b"], schema) == "(`brand name` IN ('a=b'))"


@pytest.mark.parametrize("command", ["embed", "index", "search"])
def test_help_teaches_by_example_and_needs_no_torch(command):
    code = (
        "import sys\nfrom hf_customclip.cli import main\n"
        f"try: main([{command!r}, '--help'])\nexcept SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'transformers', 'datasets', 'pyarrow', 'lancedb'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert f"hf-customclip {command} " in done.stdout


def test_the_example_runs(folder, tmp_path):
    data = tiny_dataset(24)
    data = data.cast_column("image_id", type(data.features["image_id"])("string"))
    data = data.add_column("group", ["animals-nature", "objects"] * 12)
    (tmp_path / "data").mkdir()
    data.to_parquet(tmp_path / "data" / "test.parquet")
    arguments = [folder / "model", tmp_path / "data", "a red circle", tmp_path / "index"]
    code = code_of(ROOT / "examples" / "search.py")
    for said in ("24 added, 0 changed, 0 unchanged", "0 added, 0 changed, 24 unchanged"):
        done = run_python(code, *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"24 images: {said}, 0 removed\n")
        assert done.stdout.count("\n  ") == 15
