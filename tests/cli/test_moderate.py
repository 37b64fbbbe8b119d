"""Pins: `hf-customclip moderate` prints and records what `Moderator` says; unreadable images are to be reviewed; a
resumed run passes over what is logged and checks again what changed; killed or interrupted in the middle (real
signals) the log is whole and the next run goes on; `calibrate` reports and writes the policy."""

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import pytest
from interpreters import Python, run_python
from PIL import Image
from tiny import tiny_dataset, tiny_model, tiny_processor

from hf_customclip import Moderator
from hf_customclip.moderation import Policy

POLICY = """\
categories:
  crosses:
    prompts: [a cross]
    threshold: {image: 0.05, text: 0.9}
    action: block
"""


@pytest.fixture
def policy(tmp_path):
    (tmp_path / "policy.yaml").write_text(POLICY)
    return tmp_path / "policy.yaml"


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_records_are_the_moderators_verdicts(run, saved_model, images, policy, tmp_path):
    log = tmp_path / "logs" / "audit.jsonl"
    code, out, err = run(["moderate", saved_model, policy, images, "--log", log, "--json", "--batch-size", 3])
    records = lines(out)
    assert records == lines(log.read_text()) and len(records) == 8
    assert code == 1 and " checked (1 unreadable): " in err, "one image is damaged"
    moderator = Moderator(tiny_model(), tiny_processor(), policy)
    for record in records:
        data = Path(record["path"]).read_bytes()
        assert record["sha256"] == hashlib.sha256(data).hexdigest() and record["bytes"] == len(data)
        assert record["policy"] == f"policy {Policy.from_file(policy).fingerprint()}"
        if record["path"].endswith("broken.png"):
            assert record["action"] == "review" and "truncated" in record["error"]
            continue
        (verdict,) = moderator.check([Image.open(record["path"])])
        assert record["action"] == verdict.action
        assert record["findings"][0]["score"] == pytest.approx(verdict.findings[0].score, abs=2e-6)
        assert record["findings"][0]["nearest"] == "a cross"


def test_a_resumed_run_checks_only_what_is_new_or_changed(run, saved_model, policy, tmp_path):
    folder, log = tmp_path / "images", tmp_path / "audit.jsonl"
    folder.mkdir()
    images = tiny_dataset(6)["image"]
    for number, image in enumerate(images[:4]):
        image.save(folder / f"{number}.png")
    command = ["moderate", saved_model, policy, folder, "--log", log]
    assert run(command)[2].startswith("4 checked: ")
    assert run(command)[1:] == ("", "0 checked; 4 in the log already\n")
    images[4].save(folder / "new.png")
    images[5].save(folder / "0.png")
    said = run(command)[2]
    assert said.startswith("2 checked: ") and said.endswith("; 3 in the log already\n")
    assert [os.path.basename(r["path"]) for r in lines(log.read_text())[4:]] == ["0.png", "new.png"]
    policy.write_text(POLICY.replace("0.05", "0.06"))
    assert run(command)[2].startswith("5 checked: "), "another policy judges anew"


def test_texts_alone_and_the_table(run, saved_model, policy, tmp_path):
    (tmp_path / "posts.csv").write_text("text\na cross\nlarge blue circle\n")
    code, out, err = run(["moderate", saved_model, policy, tmp_path / "posts.csv"])
    assert code == 0 and out == "block   'a cross'  crosses: the text near \"a cross\" (1.000 >= 0.900)\n"
    assert err == "2 checked: 1 block, 1 allow\n"


@pytest.mark.parametrize(
    ("source", "said"),
    [("nowhere", "There is no file or folder 'nowhere'."), (".", "'.' holds nothing to check.")],
)
def test_mistakes_are_said_before_a_model_is_loaded(run, policy, tmp_path, monkeypatch, source, said):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    code, _, err = run(["moderate", "no/model", policy, source])
    assert (code, err) == (1, f"error: {said}\n")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_in_the_middle_the_log_is_whole_and_the_next_run_goes_on(how, saved_model, policy, tmp_path):
    (tmp_path / "images").mkdir()
    for number, image in enumerate(tiny_dataset(256)["image"]):
        for copy in range(2):
            image.save(tmp_path / "images" / f"{number:03}-{copy}.png")
    log = tmp_path / "audit.jsonl"
    command = ["from hf_customclip.cli import main; main()", "moderate", saved_model, policy]
    command += [tmp_path / "images", "--log", log, "--batch-size", "4"]
    process = Python(*command)
    deadline = time.monotonic() + 120
    while (not log.exists() or log.stat().st_size < 10_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(how)
    assert process.wait() == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    if how == signal.SIGINT:
        said = process.read("stderr")
        assert "not checked, run again to go on" in said and "Traceback" not in said
    before = lines(log.read_text())
    assert 0 < len(before) < 2 * 256
    done = run_python(*command)
    assert done.returncode == 0, done.stderr
    assert f"; {len(before)} in the log already" in done.stderr
    after = lines(log.read_text())
    assert after[: len(before)] == before and len({r["path"] for r in after}) == len(after) == 2 * 256


@pytest.fixture
def labelled(tmp_path):
    rows = []
    for number, row in enumerate(tiny_dataset(32)):
        row["image"].save(tmp_path / f"{number}.png")
        cross = "cross" in row["captions"][0]
        rows.append(json.dumps({"path": f"{number}.png", "categories": ["crosses"] if cross else []}))
    (tmp_path / "labelled.jsonl").write_text("\n".join(rows))
    return tmp_path / "labelled.jsonl"


def test_calibrate_reports_draws_and_writes(run, saved_model, policy, labelled, tmp_path):
    command = ["calibrate", saved_model, policy, labelled, "--recall", "0.75"]
    code, out, err = run([*command, "--dry-run"])
    assert code == 0 and err == "" and policy.read_text() == POLICY
    assert "crosses: 8 positive and 24 negative examples" in out and "held out" in out
    code, out, err = run([*command, "--plot", tmp_path / "curve.png", "--json"])
    report = json.loads(out)["categories"]["crosses"]
    assert report["seen"]["recall"] >= 0.75
    assert Policy.from_file(policy).categories[0].thresholds == {"text": 0.9, **report["thresholds"]}
    assert err == f"wrote {tmp_path / 'curve.png'}\nwrote the thresholds into {policy}\n"
    _, out, _ = run(["moderate", saved_model, policy, labelled, "--json"])
    blocked = sum(record["action"] == "block" for record in lines(out))
    assert blocked == report["seen"]["true_positives"] + report["seen"]["false_positives"]


def test_calibrate_refuses_in_a_sentence(run, saved_model, policy, labelled):
    code, _, err = run(["calibrate", saved_model, policy, labelled])
    assert (code, err) == (1, "error: Give one target: either a precision or a recall.\n")
