"""Pins: help, mistakes and wrong usage of every command for using a model need neither torch nor transformers (so that
they come at once), with exit codes 0, 1 and 2; `--help` teaches by example."""

import json
import subprocess
import sys

CALLS = {
    ("classify", "--help"): (0, "--labels cat,dog"),
    ("moderate", "--help"): (0, "--log audit.jsonl"),
    ("calibrate", "--help"): (0, "--precision 0.9"),
    ("info", "--help"): (0, "hf-customclip info outputs/sample"),
    ("export", "--help"): (0, "outputs/sample-onnx"),
    ("demo", "--help"): (0, "--space my-space"),
    ("classify", "x", "nowhere", "--labels", "a"): (1, "There is no image or folder 'nowhere'."),
    ("moderate", "x", "none.yaml", "."): (1, "There is no policy file 'none.yaml'."),
    ("calibrate", "x", "none.yaml", ".", "--recall", "1"): (1, "There is no policy file 'none.yaml'."),
    ("info", "./none"): (1, "There is no folder './none'."),
    ("demo", "x", "--policy", "none.yaml"): (1, "There is no policy file 'none.yaml'."),
    ("demo", "x", "--index", "none"): (1, "There is no index in 'none'"),
    ("classify", "x", "nowhere"): (2, "--labels"),
    ("moderate", "x", "y", "z", "--batch-size", "0"): (2, "--batch-size"),
}

RUNNER = """
import contextlib, io, json, sys
from hf_customclip.cli import main
results = []
for call in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(call)
        except SystemExit as stop:
            code = stop.code or 0
    results.append([code, said.getvalue(), sorted({"torch", "transformers", "datasets"} & set(sys.modules))])
print(json.dumps(results))
"""


def test_help_and_mistakes_come_without_torch(tmp_path):
    calls = [list(call) for call in CALLS]
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps(calls)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for call, expected, (code, said, heavy) in zip(
        CALLS, CALLS.values(), json.loads(done.stdout), strict=True
    ):
        assert (code, heavy) == (expected[0], []), (call, said)
        assert expected[1] in said, (call, said)
