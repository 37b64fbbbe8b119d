"""Pins: a configuration is read as it is meant and refused in a sentence; commands start without torch, end in
one line and exit code 1 on a mistake; without a Hub the tutorial's recipe names the sample at once; what the
sample holds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from interpreters import code_of, run_python

import hf_customclip
from hf_customclip.cli import main
from hf_customclip.training.checks import check_sections
from hf_customclip.training.config import load_config

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = """
model: {vision: resnet34, text: some/encoder}
data: {source: images}
training: {learning_rate: 1e-3}
"""


def write(folder, text):
    file = folder / "run.yaml"
    file.write_text(text)
    return file


def test_numbers_overrides_and_paths_beside_the_file(tmp_path):
    (tmp_path / "images").mkdir()
    config = load_config(
        write(tmp_path, MINIMAL), ["training.seed=7", "training.bf16=true", "model.text_pooling=mean"]
    )
    assert config.training == {"learning_rate": 1e-3, "seed": 7, "bf16": True}
    assert config.model["text_pooling"] == "mean" and config.model["vision"] == "resnet34"
    assert config.data["source"] == str(tmp_path / "images")


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        ("model: [", [], "not valid YAML"),
        ("- a\n", [], "must hold the sections"),
        (MINIMAL + "extras: {}\n", [], "section 'extras'; allowed are model, processor, data, training"),
        ("model: {vision: resnet34}\ndata: {source: x}\n", [], "does not say model.text"),
        ("model: 3\n", [], "section 'model' must hold"),
        (MINIMAL, ["seed=1"], "'seed=1' is no override"),
    ],
)
def test_what_is_no_configuration_is_said(tmp_path, text, overrides, said):
    with pytest.raises(ValueError, match=said):
        load_config(write(tmp_path, text), overrides)


@pytest.mark.parametrize("file", sorted((ROOT / "examples" / "configs").glob("*.yaml")), ids=lambda f: f.name)
def test_every_example_configuration_is_one(file):
    check_sections(load_config(file))


def test_a_mistake_ends_in_one_line_and_exit_code_1(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--config", "nowhere.yaml"])
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "error: There is no configuration file 'nowhere.yaml'.\n"


def test_help_names_every_command_and_needs_no_torch():
    code = (
        "import sys\nfrom hf_customclip.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("train", "evaluate", "data", "features", "push"):
        assert command in done.stdout


def test_data_inspect_says_what_the_sample_holds(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["data", "inspect", str(ROOT / "examples" / "sample"), "--json"])
    assert not stopped.value.code
    report = json.loads(capsys.readouterr().out)
    assert report["images_in"] == report["images_out"] == 1851
    assert report["captions_out"] == 3702


def test_features_of_an_empty_folder(tmp_path, capsys):
    for command in (["list"], ["clear"]):
        with pytest.raises(SystemExit) as stopped:
            main(["features", *command, "--dir", str(tmp_path)])
        assert not stopped.value.code
    said = capsys.readouterr().out
    assert f"0 in {tmp_path}" in said and "deleted 0" in said


@pytest.mark.slow
def test_without_a_hub_one_line_names_the_sample(tmp_path):
    nobody = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    code = code_of(ROOT / "examples" / "train.py")
    done = run_python(code, "--config", "examples/configs/flickr30k.yaml", cwd=ROOT, env=os.environ | nobody)
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if "Hub cannot be reached" in line]
    assert len(told) == 1 and "The bundled sample needs no Hub" in told[0]
    assert "Retrying" not in done.stderr
    wrong = ["--config", "examples/configs/flickr30k.yaml", "training.num_train_epochs=abc"]
    done = run_python(code, *wrong, cwd=ROOT, env=os.environ | nobody)
    assert "'abc'" in done.stderr and "bundled sample" not in done.stderr, (
        "that has nothing to do with the Hub"
    )


def test_inspect_with_columns_and_folders_named_by_hand(tmp_path, images, run):
    table = "file,headline,alt,other\n" + "".join(f"{i}.png,Head {i},Alt text {i},x\n" for i in range(6))
    (tmp_path / "table.csv").write_text(table)
    named = ["--image-column", "file", "--caption-column", "headline", "--caption-column", "alt"]
    arguments = ["data", "inspect", tmp_path / "table.csv", "--images", images, *named]
    code, out, err = run([*arguments, "--json", "--plot", tmp_path / "page.png"])
    assert code == 0, err
    report = json.loads(out)
    assert report["images_out"] == 6 and report["captions_out"] == 12
    assert report["caption_words"]["100"] == 3
    assert (tmp_path / "page.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "no/model", "no-data", "--plots", "images"),
        ("search", "no-index", "red", "--plot", "found.png"),
        ("calibrate", "no/model", "no.yaml", "no.csv", "--plot", "curve.png"),
        ("data", "inspect", "no-data", "--plot", "page.png"),
    ],
)
def test_without_matplotlib_an_image_is_refused_before_the_work(arguments, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [name for name in sys.modules if name.startswith("hf_customclip.plotting")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(hf_customclip, "plotting", raising=False)
    code, _, err = run(arguments)
    assert code == 1 and err == "error: Plots need Matplotlib: pip install 'hf-customclip[plots]'.\n"
