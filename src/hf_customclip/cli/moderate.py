"""`hf-customclip moderate` and `hf-customclip calibrate`."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Model, can_draw, takes_options
from .output import Output, flat

MODERATE_HELP = """Hold images, and the texts that come with them, against a policy.

\b
    hf-customclip moderate outputs/sample examples/policies/emoji.yaml pics/
    hf-customclip moderate outputs/sample policy.yaml posts.jsonl \\
        --log audit.jsonl
    hf-customclip moderate outputs/sample policy.yaml pics/ --json \\
        | jq -r 'select(.action == "block").path'

The source is a folder of images, an image, or a .jsonl or .csv file with
the columns path and/or text, or those named by --image-column and
--caption-column. JSON has one record a line. What triggers is printed; with --log everything
is recorded, one JSON object a line, and what the log has already, checked by
the same model under the same policy, is passed over: run it again after a
stop. An image that cannot be read is to be reviewed, and the exit code is
then 1. An assistant, not a guarantee: see docs/moderation.md.
"""

CALIBRATE_HELP = """Set a policy's thresholds from labelled examples.

\b
    hf-customclip calibrate outputs/sample policy.yaml labelled.jsonl \\
        --precision 0.9 --plot curve.png
    hf-customclip calibrate outputs/sample policy.yaml labelled.csv \\
        --recall 0.95 --dry-run

Rows have a path and/or a text, and categories: those of the policy that the
item belongs to, none for a harmless one (in CSV with semicolons between).
Rows with the same group are near copies and are held out together. The
thresholds, which the policy need not have before, are written into it;
nothing else in the file changes.
"""

COLUMNS = ("action", "path", "text", "why", "error")
KEY_FIELDS = ("path", "bytes", "modified", "text", "policy", "model")

PolicyFile = Annotated[Path, typer.Argument(help="The policy, a YAML file.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Items that go through the model at a time.")]
ImageColumn = Annotated[str, typer.Option(help="The column of images' paths.")]
CaptionColumn = Annotated[str, typer.Option(help="The column of texts.")]


@takes_options
def moderate(
    model: Model,
    policy: PolicyFile,
    source: Annotated[Path, typer.Argument(help="A folder, an image, or a .jsonl or .csv file.")],
    printed: Output,
    image_column: ImageColumn = "path",
    caption_column: CaptionColumn = "text",
    log: Annotated[Path | None, typer.Option(help="Record everything in this JSONL file.")] = None,
    batch_size: BatchSize = 32,
) -> None:
    """Check what the log does not have, record it, print what triggers and a summary."""
    from ..moderation.audit import AuditLog
    from ..moderation.items import ItemColumns, read_items
    from ..moderation.policy import Policy

    checked_policy = Policy.from_file(policy)
    items = read_items(source, ItemColumns(image_column, caption_column))
    with AuditLog(log, KEY_FIELDS) if log else nullcontext() as audit:
        # Seconds of imports, so only after what was asked has been found to make sense.
        from ..inference.fingerprints import weights_digest
        from ..inference.load_model import load_model
        from ..moderation.moderator import Moderator

        moderator = Moderator(*load_model(model), checked_policy)
        made_by = {
            "policy": f"{checked_policy.name} {checked_policy.fingerprint()}",
            "model": f"{model} {weights_digest(moderator.model)[:16]}",  # type: ignore[arg-type]
        }
        todo = [item for item in items if not (audit and audit.has(_identity(item, made_by)))]
        counts: Counter[str] = Counter({"logged before": len(items) - len(todo)})
        printed.show_columns(COLUMNS)
        try:
            for record in _records(moderator, todo, made_by, batch_size, audit):
                counts[record["action"]] += 1
                counts["unreadable"] += "error" in record
                _show(printed, record)
        finally:
            _summarise(counts, len(items))
    if counts["unreadable"]:
        raise typer.Exit(1)
    printed.say_next("hf-customclip", "calibrate", model, policy, "LABELLED.csv", "--precision", "0.9")


@takes_options
def calibrate(
    model: Model,
    policy: PolicyFile,
    labelled: Annotated[Path, typer.Argument(help="Labelled examples, a .jsonl or .csv file.")],
    printed: Output,
    image_column: ImageColumn = "path",
    caption_column: CaptionColumn = "text",
    label_column: Annotated[str, typer.Option(help="The column of categories.")] = "categories",
    group_column: Annotated[str, typer.Option(help="The column of groups of near copies.")] = "group",
    precision: Annotated[float | None, typer.Option(help="The wanted precision, from 0 to 1.")] = None,
    recall: Annotated[float | None, typer.Option(help="Or the wanted recall.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(callback=can_draw, help="Draw precision against recall, into this PNG file."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report, and leave the policy as it is.")
    ] = False,
    batch_size: BatchSize = 32,
) -> None:
    """Score the examples, choose thresholds, report, write them back."""
    from ..moderation.items import ItemColumns, read_items
    from ..moderation.policy import Policy, write_thresholds

    checked_policy = Policy.from_file(policy, calibrated=False)
    items = read_items(labelled, ItemColumns(image_column, caption_column, label_column, group_column))
    from ..inference.load_model import load_model
    from ..moderation.calibration import calibrate as choose
    from ..moderation.moderator import Moderator

    result = choose(
        Moderator(*load_model(model), checked_policy),
        [item.path for item in items],
        [item.text for item in items],
        [item.categories for item in items],
        precision=precision,
        recall=recall,
        groups=[item.group or f"row {row}" for row, item in enumerate(items)],
        batch_size=batch_size,
    )
    values = result.to_dict()
    rows = [{"category": name, **flat(about)} for name, about in values["categories"].items()]
    printed.show(table=result, value=values, rows=rows)
    if plot is not None:
        typer.echo(f"wrote {result.plot(plot)}", err=True)
    if not dry_run:
        write_thresholds(policy, result.thresholds)
        typer.echo(f"wrote the thresholds into {policy}", err=True)
    printed.say_next("hf-customclip", "moderate", model, policy, "IMAGES")


def _records(
    moderator: Any, items: list[Any], made_by: dict[str, str], batch_size: int, audit: Any
) -> Iterator[dict[str, Any]]:
    """Check items in batches; each record is in the log when it comes."""
    from tqdm import tqdm

    from ..inference.encode import batched

    with tqdm(total=len(items), desc="moderate", disable=None, leave=False) as bar:
        for batch in batched(items, batch_size):
            for record in _check(moderator, batch, made_by):
                if audit:
                    audit.append(record)
                yield record
            if audit:
                audit.flush()
            sys.stdout.flush()
            bar.update(len(batch))


def _check(moderator: Any, batch: list[Any], made_by: dict[str, str]) -> list[dict[str, Any]]:
    # Identity before content: a file that changes meanwhile is then checked again next time.
    records = [_identity(item, made_by) for item in batch]
    images = [_open(item.path, record) for item, record in zip(batch, records, strict=True)]
    readable = [position for position, record in enumerate(records) if "error" not in record]
    if readable:
        verdicts = moderator.check([images[p] for p in readable], [batch[p].text for p in readable])
        for position, verdict in zip(readable, verdicts, strict=True):
            records[position] |= {
                "action": verdict.action,
                "findings": [asdict(finding) for finding in verdict.findings],
            }
    time = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return [{"time": time, **record} for record in records]


def _identity(item: Any, made_by: dict[str, str]) -> dict[str, Any]:
    """What was checked and by what: the fields by which a resumed run knows it again."""
    about: dict[str, Any] = {}
    if item.path:
        about["path"] = item.path
        try:
            state = os.stat(item.path)
            about |= {"bytes": state.st_size, "modified": state.st_mtime_ns}
        except OSError:
            pass  # opening it will say why
    if item.text:
        about["text"] = item.text
    return {**about, **made_by}


def _open(path: str | None, record: dict[str, Any]) -> Any:
    """The image, its SHA-256 noted in the record; or None, and in the record why it must be reviewed."""
    from ..data.images import UnreadableImageError, decode_image, to_rgb

    if path is None:
        return None
    try:
        data = Path(path).read_bytes()
        record["sha256"] = hashlib.sha256(data).hexdigest()
        return to_rgb(decode_image(data, name=path))
    except (OSError, UnreadableImageError) as error:
        reason = error.reason if isinstance(error, UnreadableImageError) else error.strerror
        record |= {"action": "review", "error": str(reason), "findings": []}
        return None


def _show(printed: Output, record: dict[str, Any]) -> None:
    from ..moderation.moderator import Finding

    name = record.get("path") or repr(record["text"][:60])
    findings = [Finding(**finding) for finding in record["findings"]]
    why = "; ".join(str(finding) for finding in findings if finding.triggered)
    said = f"unreadable: {record['error']}" if "error" in record else why
    row = {**{column: record.get(column) for column in COLUMNS}, "why": why}
    line = None if record["action"] == "allow" else f"{record['action']:7} {name}  {said}"
    printed.show_one(COLUMNS, table=line, value=record, rows=[row])


def _summarise(counts: Counter[str], total: int) -> None:
    checked = sum(counts[action] for action in ("allow", "flag", "review", "block"))
    order = ("block", "review", "flag", "allow")
    actions = ", ".join(f"{counts[action]} {action}" for action in order if counts[action])
    unreadable = f" ({counts['unreadable']} unreadable)" if counts["unreadable"] else ""
    before = f"; {counts['logged before']} in the log already" if counts["logged before"] else ""
    left = total - checked - counts["logged before"]
    rest = f"; {left} not checked, run again to go on" if left else ""
    typer.echo(f"{checked} checked{unreadable}{actions and ': '}{actions}{before}{rest}", err=True)
