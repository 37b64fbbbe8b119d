"""Kill training runs with SIGKILL, resume them, and compare with the run that was never killed, bit for bit.

python benchmarks/kill_and_resume.py --kills 20 --processes 1
python benchmarks/kill_and_resume.py --kills 20 --processes 2

Every other kill is at a random moment of the run; the others are in the middle of writing a checkpoint. The towers
are tiny and partly trained, with dropout and randomly chosen captions. Exits with 1 unless every resumed
run ends in the same weights, after the same losses and learning rates.
"""

import argparse
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from tiny import tiny_dataset, tiny_model, tiny_processor  # noqa: E402
from transformers import logging  # noqa: E402

from hf_customclip import CustomClipTrainer, CustomClipTrainingArguments  # noqa: E402
from hf_customclip.training.whole_checkpoints import UNFINISHED  # noqa: E402

FINAL, LOG = "final.safetensors", "losses.json"


def train(folder: Path) -> None:
    """Train, from the newest checkpoint on if there is one, and save the weights and the log."""
    model = tiny_model()
    model.unfreeze("text", last_groups=1)
    model.unfreeze("vision", last_groups=1)
    args = CustomClipTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=6,
        per_device_train_batch_size=24 // int(os.environ.get("WORLD_SIZE", 1)),
        caption_sampling="random",
        save_strategy="steps",
        save_steps=2,
        save_total_limit=2,
        logging_steps=1,
        lr_scheduler_type="cosine",
        feature_cache="never",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = CustomClipTrainer(model, args, None, tiny_dataset(48), None, tiny_processor())
    trainer.train(resume_from_checkpoint=True)
    if trainer.is_world_process_zero():
        log = [entry for entry in trainer.state.log_history if "loss" in entry]
        (folder / LOG).write_text(json.dumps(log))
        save_file({name: p.detach() for name, p in model.named_parameters()}, folder / f"{FINAL}.part")
        os.replace(folder / f"{FINAL}.part", folder / FINAL)


def start(folder: Path, processes: int) -> list[int]:
    """The run in forked processes; their ids. Forking spares the many seconds that imports take."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [_fork(folder, rank, processes, port) for rank in range(processes)]


def _fork(folder: Path, rank: int, processes: int, port: int) -> int:
    if child := os.fork():
        return child
    code = 1
    try:
        if processes > 1:
            names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
            values = (rank, rank, processes, processes, "127.0.0.1", port)
            os.environ |= dict(zip(names, map(str, values), strict=True))
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        train(folder)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def finish(children: list[int]) -> None:
    """Wait for the processes; an error if one failed."""
    for child in children:
        if os.waitpid(child, 0)[1] != 0:
            raise SystemExit("a training process failed")


def kill(children: list[int]) -> None:
    """SIGKILL to all, which no process can answer."""
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)


def kill_at_random(folder: Path, children: list[int], seconds: float, chance: random.Random) -> None:
    """At a moment anywhere in the run."""
    time.sleep(chance.uniform(0.1, 0.95) * seconds)
    kill(children)


def kill_while_writing(folder: Path, children: list[int], chance: random.Random) -> None:
    """Up to 40 ms after one of the run's first checkpoints has begun to be written."""
    for _ in range(chance.randint(1, 4)):
        while (folder / UNFINISHED).exists():  # the one before
            time.sleep(0.0005)
        while not (folder / UNFINISHED).exists() and not (folder / FINAL).exists():
            time.sleep(0.0005)
        moment = time.monotonic() + chance.uniform(0, 0.04)
        while (folder / UNFINISHED).exists() and time.monotonic() < moment:
            time.sleep(0.0005)
    kill(children)


def newest(folder: Path) -> int:
    """The step of the newest checkpoint, 0 if there is none."""
    return max((int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")), default=0)


def same(one: Path, other: Path) -> tuple[bool, bool]:
    """Whether the weights are the same bits, and the losses, gradient norms and learning rates the same."""
    weights, others = load_file(one / FINAL), load_file(other / FINAL)
    equal = weights.keys() == others.keys() and all(torch.equal(weights[k], others[k]) for k in weights)
    return equal, json.loads((one / LOG).read_text()) == json.loads((other / LOG).read_text())


def main() -> None:
    """Kill, resume, compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    chance, identical = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as base:
        whole = Path(base) / "whole"
        began = time.monotonic()
        finish(start(whole, options.processes))
        seconds = time.monotonic() - began
        steps = len(json.loads((whole / LOG).read_text()))
        print(f"{options.processes} process(es), {steps} steps, a checkpoint every 2, {seconds:.1f} s\n")
        print("| kill | when | left half-written | resumed from step | weights | losses |")
        print("|---:|---|---|---:|---|---|")
        for number in range(options.kills):
            folder = Path(base) / f"killed-{number}"
            children = start(folder, options.processes)
            if number % 2:
                kill_while_writing(folder, children, chance)
            else:
                kill_at_random(folder, children, seconds, chance)
            half = sorted(path.name for path in folder.glob(f"{UNFINISHED}/*"))
            step = newest(folder)
            finish(start(folder, options.processes))
            weights, losses = same(whole, folder)
            identical += weights and losses
            cells = (
                "while writing" if number % 2 else "any moment",
                ", ".join(half) or "-",
                step,
                "same" if weights else "DIFFERENT",
                "same" if losses else "DIFFERENT",
            )
            print(f"| {number + 1} | " + " | ".join(map(str, cells)) + " |", flush=True)
    print(f"\n{identical} of {options.kills} identical")
    sys.exit(identical != options.kills)


if __name__ == "__main__":
    main()
