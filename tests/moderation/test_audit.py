"""Pins: the audit log holds whole lines only, whatever killed its writer (a real SIGKILL and a real SIGINT, many
times), continues where it stopped, and writes nothing by half on a full disk."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from interrupts import heed_interrupts

from hf_customclip.moderation import AuditLog

WRITER = """
import sys
from hf_customclip.moderation.audit import AuditLog
with AuditLog(sys.argv[1], ["path"]) as log:
    for i in range(1_000_000):
        record = {"path": f"{i}.png", "text": "x" * (i * 37 % 9000)}  # many longer than a page
        if not log.has(record):
            log.append(record)
            if i % 50 == 0:
                log.flush()
"""


def records(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_again_and_again_it_holds_whole_lines_each_once(tmp_path, how):
    file = tmp_path / "audit.jsonl"
    lengths = []
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, file], stderr=subprocess.DEVNULL, preexec_fn=heed_interrupts
        )
        start = file.stat().st_size if file.exists() else 0
        deadline = time.monotonic() + 60
        while (not file.exists() or file.stat().st_size < start + 500_000) and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(how)
        assert process.wait() != 0
        with AuditLog(file, ["path"]) as log:  # what may be torn is removed on opening
            lengths.append(len(log.logged))
        paths = [record["path"] for record in records(file)]
        assert paths == [f"{i}.png" for i in range(len(paths))] and len(paths) == lengths[-1]
    assert lengths == sorted(set(lengths)), "every run went on from where the last one stopped"


def test_a_torn_last_line_is_removed_and_written_again(tmp_path):
    file = tmp_path / "audit.jsonl"
    with AuditLog(file, ["path"]) as log:
        log.append({"path": "a", "n": 1})
        log.append({"path": "ü" * 3000, "n": 2})
    whole = file.read_bytes()
    for cut in (1, 2000, len(whole) - len(whole.splitlines(True)[0]) - 1):
        file.write_bytes(whole[:-cut])
        with AuditLog(file, ["path"]) as log:
            assert log.has({"path": "a"}) and not log.has({"path": "ü" * 3000})
            log.append({"path": "ü" * 3000, "n": 2})
        assert file.read_bytes() == whole


def test_what_counts_as_the_same_record(tmp_path):
    with AuditLog(tmp_path / "log", ["path", "text"]) as log:
        log.append({"path": "a", "text": "b", "time": 1})
        assert log.has({"path": "a", "text": "b", "time": 2})
        assert not log.has({"path": "a"}) and not log.has({"path": "a", "text": None, "x": 1, "time": 1})
        assert not log.has({"path": "ab", "text": ""})


def test_a_full_disk_leaves_no_half_line(tmp_path):
    """The system refuses to let the file grow beyond 10,000 bytes."""
    code = """
import resource, signal, sys
from hf_customclip.moderation.audit import AuditLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
with AuditLog(sys.argv[1], ["path"]) as log:
    for i in range(100):
        log.append({"path": str(i), "text": "x" * 700})
"""
    file = tmp_path / "audit.jsonl"
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True)
    assert "OSError" in done.stderr
    assert [record["path"] for record in records(file)] == [str(i) for i in range(13)]


def test_a_file_that_is_no_audit_log_is_refused_and_kept(tmp_path):
    file = tmp_path / "notes.txt"
    for content in ("dear diary\n", '{"path": "a"}\n[1]\n'):
        file.write_text(content)
        with pytest.raises(ValueError, match=r"notes\.txt' is no audit log: its line \d is no JSON object"):
            AuditLog(file, ["path"])
        assert file.read_text() == content


def test_odd_names_are_kept(tmp_path):
    file = tmp_path / "audit.jsonl"
    names = ["grüße.png", os.fsdecode(b"\xff.png"), "a\u2028b.png", "line\nend.png"]
    with AuditLog(file, ["path"]) as log:
        for name in names:
            log.append({"path": name})
    lines = file.read_bytes().decode().splitlines()
    assert [json.loads(line)["path"] for line in lines] == names
    assert "grüße" in lines[0], "readable as it is"
