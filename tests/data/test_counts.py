"""Promise pinned here: whatever mixture of sound and damaged lines and files a folder holds, images in are
images out plus images reported, captions in are captions out plus captions reported, and every caption that
comes out stands beside its own image.
"""

import json
import shutil
import tempfile
from pathlib import Path

import datasets
from hypothesis import given, settings
from hypothesis import strategies as st
from miniatures import write_images

from hf_customclip.data import DataError, load_with_report

NAMES = [f"{number}.jpg" for number in range(8)]
# What can be said of an image; captions carry its name so that a mix-up shows.
TEXTS = st.sampled_from(
    ["", "  ", "NA", "plain", 'a "quoted" word', "with, commas", '"never closed', "tab\tinside", "ünï 🐕"]
)
LINES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(NAMES), TEXTS),
        st.sampled_from([("", "no name"), ("junk",), ("unknown.jpg", "lost")]),
    ),
    max_size=25,
)


def csv_text(lines):
    return "image,caption\n" + "\n".join(",".join(line) for line in said(lines))


def token_text(lines):
    return "\n".join(f"{line[0]}#0\t{line[1]}" if len(line) == 2 else line[0] for line in said(lines))


def bar_text(lines):
    return "image_name| comment_number| comment\n" + "\n".join(
        f"{line[0]}| 0| {line[1]}" if len(line) == 2 else line[0] for line in said(lines)
    )


def jsonl_text(lines):
    return "\n".join(
        json.dumps({"image": line[0], "caption": line[1]}) if len(line) == 2 else line[0]
        for line in said(lines)
    )


def said(lines):
    """Sound captions end in their image's name."""
    for line in lines:
        sound = len(line) == 2 and line[0] in NAMES and line[1].strip()
        yield (line[0], f"{line[1]} of {line[0]}") if sound else line


FORMS = {"c.csv": csv_text, "c.token": token_text, "results.csv": bar_text, "c.jsonl": jsonl_text}


@settings(max_examples=150, deadline=None)
@given(
    LINES,
    st.sets(st.sampled_from(NAMES), min_size=1),
    st.sets(st.sampled_from(NAMES)),
    st.sampled_from(sorted(FORMS)),
    st.booleans(),
)
def test_nothing_is_lost_silently(lines, present, unreadable, form, verify):
    folder = Path(tempfile.mkdtemp())
    try:
        check(folder, lines, present, unreadable, form, verify)
    finally:
        shutil.rmtree(folder)


def check(folder, lines, present, unreadable, form, verify):
    write_images(folder, sorted(present))
    for name in unreadable & present:
        (folder / name).write_bytes(b"not an image")
    (folder / form).write_text(FORMS[form](lines), encoding="utf-8")
    try:
        splits, report = load_with_report(folder, verify=verify)
    except DataError:
        return  # nothing usable at all
    assert report.balanced, report
    assert report.captions_in == len([line for line in lines if any(part.strip() for part in line)])
    assert report.images_out == sum(map(len, splits.values()))
    kept = [
        (Path(row["image"]["path"]).name, row["captions"])
        for rows in splits.values()
        for row in rows.cast_column("image", datasets.Image(decode=False))
    ]
    assert len({name for name, _ in kept}) == len(kept)
    for name, captions in kept:
        assert captions and all(caption.endswith(f" of {name}") for caption in captions)
        expected = [f"{line[1]} of {name}" for line in lines if line[0] == name and line[1].strip()]
        # A quote that is never closed is lost from CSV, and nothing else.
        unquoted = [caption.strip().lstrip('"') for caption in expected]
        assert [caption.lstrip('"') for caption in captions] == unquoted
        assert not (verify and name in unreadable)
