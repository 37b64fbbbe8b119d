"""Pins: both notebooks run from top to bottom, on images of the bundled sample with tiny towers, and end with results;
only the cell of parameters is replaced. They are stored without outputs."""

import csv
from pathlib import Path

import nbformat
import pytest
from datasets import Image, load_dataset
from nbclient import NotebookClient
from tiny import tiny_text_tower, tiny_vision_tower

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eighty images of the sample with a table of their captions, and two tiny towers."""
    folder = tmp_path_factory.mktemp("notebooks")
    file = str(ROOT / "examples" / "sample" / "data" / "test-*.parquet")
    rows = load_dataset("parquet", data_files=file, split="train").cast_column("image", Image(decode=False))
    (folder / "my-images").mkdir()
    with (folder / "my-images" / "metadata.csv").open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        writer.writerow(["file_name", "text"])
        for number, row in enumerate(rows.select(range(80))):
            (folder / "my-images" / f"{number}.png").write_bytes(row["image"]["bytes"])
            writer.writerow([f"{number}.png", row["captions"][0]])
    tiny_vision_tower("vit", folder / "vision")
    tiny_text_tower("distilbert", folder / "text")
    return folder


def run(name, folder, parameters):
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source = parameters
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")


TOWERS = 'SOURCE = "my-images/"\nVISION, TEXT = "vision", "text"\n'


def test_quickstart(folder):
    said = run("quickstart", folder, TOWERS + 'POOLING, EPOCHS, QUERY = "mean", 2, "a red heart"')
    assert "80 of 80" in said and "95 % interval" in said and "by chance" in said
    assert (folder / "outputs" / "mine" / "model.safetensors").is_file()


def test_tutorial(folder):
    said = run("tutorial", folder, TOWERS + "EPOCHS, BATCH = 2, 16")
    assert "tower in train mode: False False" in said and "no temperature" in said
    assert "texts that find themselves: 1.0" in said
