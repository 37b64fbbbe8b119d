"""Kill training runs with SIGKILL, resume them, and compare with the run that was never killed, bit for bit.

python benchmarks/kill_and_resume.py --kills 20 --processes 1 2
python benchmarks/kill_and_resume.py --kills 10 --processes 1 2 --data shards

With `--data shards` it is the extraction of feature shards that is killed, at any moment of it, and then the training
of heads on them.

Each kill comes in a step drawn at random from all steps but the first and the last; every other one waits for
that step's checkpoint and comes in the middle of its writing. A kill that meets no living process, or no half-written
checkpoint where it should, does not count and is tried again. The towers are tiny and partly trained, with dropout
and randomly chosen captions. Exits with 1 unless every resumed run ends in the same weights, after the same
losses and learning rates.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from tiny import tiny_dataset, tiny_model, tiny_processor  # noqa: E402
from tqdm.auto import tqdm  # noqa: E402
from transformers import TrainerCallback, logging  # noqa: E402

from hf_customclip import CustomClipTrainer, CustomClipTrainingArguments  # noqa: E402
from hf_customclip.features.shard_dataset import FeatureShards  # noqa: E402
from hf_customclip.features.shard_extraction import extract_features  # noqa: E402
from hf_customclip.features.shard_folder import MANIFEST  # noqa: E402
from hf_customclip.training.checkpoints import UNFINISHED  # noqa: E402

FINAL, LOG, STEPS = "final.safetensors", "losses.json", "steps"
SAVE_STEPS = 2
# With what the runs only read made once, in the process that all are forked from.
DATA, PROCESSOR = tiny_dataset(48), tiny_processor()


class CountSteps(TrainerCallback):
    """A file as many bytes long as steps have begun, for the process that kills."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.is_world_process_zero:
            with self.file.open("ab") as file:
                file.write(b".")


def extract(folder: Path) -> None:
    """This process's share of the shards that are not there yet."""
    rank, processes = (
        int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1))
    )
    stream = DATA.to_iterable_dataset(num_shards=12)
    share = {"process_index": rank, "num_processes": processes}
    extract_features(tiny_model(), PROCESSOR, stream, str(folder), **share, show_progress=False)


def train(folder: Path, epochs: int, shards: Path | None) -> None:
    """Train, from the newest checkpoint on if there is one, and save the weights and the log."""
    model = tiny_model(projection_dropout=0.5)
    if shards is None:
        model.unfreeze("text", last_groups=1)
        model.unfreeze("vision", last_groups=1)
    args = CustomClipTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=24 // int(os.environ.get("WORLD_SIZE", 1)),
        caption_sampling="random",
        save_strategy="steps",
        save_steps=SAVE_STEPS,
        save_total_limit=2,
        logging_steps=1,
        lr_scheduler_type="cosine",
        feature_cache="never",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    counting = CountSteps(folder / STEPS)
    data = DATA if shards is None else FeatureShards(str(shards))
    trainer = CustomClipTrainer(model, args, None, data, None, PROCESSOR, callbacks=[counting])
    trainer.train(resume_from_checkpoint=True)
    if trainer.is_world_process_zero():
        log = [entry for entry in trainer.state.log_history if "loss" in entry]
        (folder / LOG).write_text(json.dumps(log))
        save_file({name: p.detach() for name, p in model.named_parameters()}, folder / f"{FINAL}.part")
        os.replace(folder / f"{FINAL}.part", folder / FINAL)


def start(folder: Path, processes: int, work: Callable[[], None]) -> list[int]:
    """The work in forked processes; their ids. Forking spares the many seconds that imports take."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(exist_ok=True)
    return [_fork(work, rank, processes, port) for rank in range(processes)]


def _fork(work: Callable[[], None], rank: int, processes: int, port: int) -> int:
    if child := os.fork():
        return child
    # Not the bars' lock that is shared with the parent: killed with it in hand, this one would leave it locked.
    tqdm.set_lock(threading.RLock())
    code = 1
    try:
        if processes > 1:
            names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
            values = (rank, rank, processes, processes, "127.0.0.1", port)
            os.environ |= dict(zip(names, map(str, values), strict=True))
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        work()
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


def kill(children: list[int]) -> bool:
    """SIGKILL to all, which no process can answer; whether every one was still alive."""
    for child in children:
        os.kill(child, signal.SIGKILL)
    return all([os.WIFSIGNALED(os.waitpid(child, 0)[1]) for child in children])


def begun(folder: Path) -> int:
    """How many steps the run has begun."""
    return (folder / STEPS).stat().st_size if (folder / STEPS).exists() else 0


def wait_for(condition: Callable[[], bool], folder: Path) -> None:
    """Until the condition holds or the run has ended."""
    while not condition() and not (folder / FINAL).exists():
        time.sleep(0.0005)


def kill_in_step(folder: Path, children: list[int], step: int, seconds: float, chance: random.Random) -> bool:
    """At a moment anywhere within a step, what follows it included; whether it met the living run."""
    wait_for(lambda: begun(folder) >= step, folder)
    time.sleep(chance.uniform(0, seconds))
    return kill(children)


def kill_while_writing(folder: Path, children: list[int], step: int, chance: random.Random) -> bool:
    """Up to 40 ms after a step's checkpoint has begun to be written; whether that left a half."""
    wait_for(lambda: begun(folder) >= step, folder)
    wait_for(lambda: (folder / UNFINISHED).exists(), folder)
    moment = time.monotonic() + chance.uniform(0, 0.04)
    wait_for(lambda: time.monotonic() > moment or not (folder / UNFINISHED).exists(), folder)
    return kill(children) and bool(half_written(folder))


def half_written(folder: Path) -> str:
    """Names of the checkpoints that a kill left unfinished."""
    return ", ".join(sorted(path.name for path in folder.glob(f"{UNFINISHED}/checkpoint-*")))


def newest(folder: Path) -> int:
    """The step of the newest checkpoint, 0 if there is none."""
    return max((int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")), default=0)


def same(one: Path, other: Path) -> tuple[bool, bool]:
    """Whether the weights are the same bits, and the losses, gradient norms and learning rates the same."""
    weights, others = load_file(one / FINAL), load_file(other / FINAL)
    equal = weights.keys() == others.keys() and all(torch.equal(weights[k], others[k]) for k in weights)
    return equal, json.loads((one / LOG).read_text()) == json.loads((other / LOG).read_text())


@dataclass
class Run:
    """The run that is never killed."""

    folder: Path
    processes: int
    epochs: int
    shards: Path | None
    steps: int = 0
    seconds: float = 0.0

    def start(self, folder: Path) -> list[int]:
        """The same run in another folder."""
        return start(folder, self.processes, partial(train, folder, self.epochs, self.shards))


def killed_run(base: Path, number: int, run: Run, chance: random.Random) -> tuple[Path, int]:
    """A run that a counted kill has ended: its folder and the step of the kill."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=base))
        step = chance.randrange(2, run.steps)
        children = run.start(folder)
        if number % 2:
            step = max(SAVE_STEPS, step // SAVE_STEPS * SAVE_STEPS)
            counts = kill_while_writing(folder, children, step, chance)
        else:
            counts = kill_in_step(folder, children, step, run.seconds / run.steps, chance)
        if counts:
            return folder, begun(folder)


def kill_and_compare(base: Path, run: Run, kills: int, chance: random.Random) -> int:
    """Print a row for each kill; how many resumed runs were the same as the one never killed."""
    print("| kill | meant for | in step | left half-written | resumed from step | weights | losses |")
    print("|---:|---|---:|---|---:|---|---|")
    identical = 0
    for number in range(kills):
        folder, step = killed_run(base, number, run, chance)
        half, resumed_from = half_written(folder), newest(folder)
        finish(run.start(folder))
        weights, losses = same(run.folder, folder)
        identical += weights and losses
        cells = (number + 1, "writing" if number % 2 else "any moment", step, half or "-", resumed_from)
        found = ("same" if equal else "DIFFERENT" for equal in (weights, losses))
        print("| " + " | ".join(map(str, (*cells, *found))) + " |", flush=True)
        shutil.rmtree(folder)
    print(f"\n{identical} of {kills} identical\n", flush=True)
    return identical


def uninterrupted(base: Path, processes: int, epochs: int, shards: Path | None) -> Run:
    """The run that is never killed, and how long it takes from its first step on."""
    folder = base / f"whole-{processes}"
    run = Run(folder, processes, epochs, shards)
    children = run.start(folder)
    wait_for(lambda: begun(folder) > 0, folder)
    began = time.monotonic()
    finish(children)
    steps = len(json.loads((folder / LOG).read_text()))
    return replace(run, steps=steps, seconds=time.monotonic() - began)


def kill_extractions(base: Path, processes: int, kills: int, chance: random.Random) -> tuple[Path, int]:
    """The shards of an extraction that is never killed, and how many killed and resumed ones have the same bytes."""
    whole = base / f"shards-{processes}"
    began = time.monotonic()
    finish(start(whole, processes, partial(extract, whole)))
    seconds, identical, done = time.monotonic() - began, 0, []
    while len(done) < kills:
        folder = Path(tempfile.mkdtemp(dir=base))
        children = start(folder, processes, partial(extract, folder))
        time.sleep(chance.uniform(0, seconds))
        if not kill(children):
            continue
        done.append(len(list(folder.glob("*.safetensors"))))
        finish(start(folder, processes, partial(extract, folder)))
        names = [MANIFEST, *sorted(path.name for path in whole.glob("*.safetensors"))]
        identical += all((folder / name).read_bytes() == (whole / name).read_bytes() for name in names)
        shutil.rmtree(folder)
    print(
        f"{processes} process(es) extract 12 shards in {seconds:.1f} s; killed when so many were there: {done}"
    )
    print(f"\n{identical} of {kills} identical\n", flush=True)
    return whole, identical


def main() -> None:
    """Kill, resume, compare, and print a table for each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, nargs="+", default=[1])
    parser.add_argument("--epochs", type=int, default=6, help="of 4 steps each")
    parser.add_argument("--data", choices=["images", "shards"], default="images")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    chance, identical = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as name:
        for processes in options.processes:
            shards = None
            if options.data == "shards":
                shards, right = kill_extractions(Path(name), processes, options.kills, chance)
                identical += right
            run = uninterrupted(Path(name), processes, options.epochs, shards)
            print(
                f"{processes} process(es), {run.steps} steps in {run.seconds:.1f} s, a checkpoint every "
                f"{SAVE_STEPS}\n"
            )
            identical += kill_and_compare(Path(name), run, options.kills, chance)
    tables = 2 if options.data == "shards" else 1
    sys.exit(identical != tables * options.kills * len(options.processes))


if __name__ == "__main__":
    main()
