"""`hf-customclip moderate` and `hf-customclip calibrate`."""

from __future__ import annotations

import hashlib
import json
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

from .options import Model, can_draw

MODERATE_HELP = """Hold images, and the texts that come with them, against a policy.

\b
    hf-customclip moderate outputs/sample examples/policies/emoji.yaml pics/
    hf-customclip moderate outputs/sample policy.yaml posts.jsonl \\
        --log audit.jsonl
    hf-customclip moderate outputs/sample policy.yaml pics/ --json \\
        | jq -r 'select(.action == "block").path'

The source is a folder of images, an image, or a .jsonl or .csv file with
the columns path and/or text. What triggers is printed; with --log everything
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
thresholds are written into the policy; nothing else in the file changes.
"""

KEY_FIELDS = ("path", "bytes", "modified", "text", "policy", "model")

PolicyFile = Annotated[Path, typer.Argument(help="The policy, a YAML file.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Items that go through the model at a time.")]


def moderate(
    model: Model,
    policy: PolicyFile,
    source: Annotated[Path, typer.Argument(help="A folder, an image, or a .jsonl or .csv file.")],
    log: Annotated[Path | None, typer.Option(help="Record everything in this JSONL file.")] = None,
    batch_size: BatchSize = 32,
    as_json: Annotated[bool, typer.Option("--json", help="Print every record as a line of JSON.")] = False,
) -> None:
    """Check what the log does not have, record it, print what triggers and a summary."""
    from ..moderation.audit import AuditLog
    from ..moderation.items import read_items
    from ..moderation.policy import Policy

    checked_policy, items = Policy.from_file(policy), read_items(source)
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
        try:
            for record in _records(moderator, todo, made_by, batch_size, audit):
                counts[record["action"]] += 1
                counts["unreadable"] += "error" in record
                _print(record, as_json)
        finally:
            _summarise(counts, len(items))
    if counts["unreadable"]:
        raise typer.Exit(1)


def calibrate(
    model: Model,
    policy: PolicyFile,
    labelled: Annotated[Path, typer.Argument(help="Labelled examples, a .jsonl or .csv file.")],
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Score the examples, choose thresholds, report, write them back."""
    from ..moderation.items import read_items
    from ..moderation.policy import Policy, write_thresholds

    checked_policy, items = Policy.from_file(policy), read_items(labelled)
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
    print(json.dumps(result.to_dict(), indent=2) if as_json else result)
    if plot is not None:
        typer.echo(f"wrote {result.plot(plot)}", err=True)
    if not dry_run:
        write_thresholds(policy, result.thresholds)
        typer.echo(f"wrote the thresholds into {policy}", err=True)


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


def _print(record: dict[str, Any], as_json: bool) -> None:
    from tqdm import tqdm

    from ..moderation.audit import json_line
    from ..moderation.moderator import Finding

    if as_json:
        tqdm.write(json_line(record))
        return
    name = record.get("path") or repr(record["text"][:60])
    if "error" in record:
        tqdm.write(f"{record['action']:7} {name}  unreadable: {record['error']}")
    elif record["action"] != "allow":
        found = [Finding(**finding) for finding in record["findings"]]
        tqdm.write(f"{record['action']:7} {name}  {'; '.join(str(each) for each in found if each.triggered)}")


def _summarise(counts: Counter[str], total: int) -> None:
    checked = sum(counts[action] for action in ("allow", "flag", "review", "block"))
    order = ("block", "review", "flag", "allow")
    actions = ", ".join(f"{counts[action]} {action}" for action in order if counts[action])
    unreadable = f" ({counts['unreadable']} unreadable)" if counts["unreadable"] else ""
    before = f"; {counts['logged before']} in the log already" if counts["logged before"] else ""
    left = total - checked - counts["logged before"]
    rest = f"; {left} not checked, run again to go on" if left else ""
    typer.echo(f"{checked} checked{unreadable}{actions and ': '}{actions}{before}{rest}", err=True)
