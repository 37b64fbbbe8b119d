"""What `accelerate launch` runs for test_processes: one batch's gradients, or a whole training run."""

import sys

import torch
from safetensors.torch import save_file
from tiny import tiny_dataset, tiny_model, tiny_processor
from torch.nn.parallel import DistributedDataParallel

from hf_customclip import CustomClipTrainer, CustomClipTrainingArguments


def arguments(folder, **more):
    return CustomClipTrainingArguments(
        output_dir=folder,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        **more,
    )


def fixed_batch(rows=37):
    """Kept features of 37 pairs, of which 5 show an image that another process has too."""
    generator = torch.Generator().manual_seed(1)
    image_ids = torch.arange(rows)
    image_ids[20:25] = image_ids[1:6]
    return {
        "image_features": torch.randn(rows, 32, generator=generator),
        "text_features": torch.randn(rows, 32, generator=generator),
        "image_ids": image_ids,
    }


def gradients(file, loss_type):
    """Save the loss and every gradient of the fixed batch, shared out over the processes there are."""
    model = tiny_model(loss_type=loss_type, projection_dropout=0.0).train()
    trainer = CustomClipTrainer(model, arguments("unused"))
    rank, world = trainer.args.process_index, trainer.args.world_size
    rows = 37 // world + 1
    share = {name: values[rank * rows : (rank + 1) * rows] for name, values in fixed_batch().items()}
    wrapped = DistributedDataParallel(model) if world > 1 else model
    loss = trainer.compute_loss(wrapped, share)
    loss.backward()
    loss = trainer.accelerator.gather(loss.detach()[None]).mean()
    if rank == 0:
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        save_file({**found, "loss": loss[None]}, file)


def training(file):
    """Save the heads after an epoch of plain gradient descent in batches of 24 over all processes."""
    model = tiny_model(projection_dropout=0.0)
    world = int(__import__("os").environ.get("WORLD_SIZE", 1))
    args = arguments(
        file + ".run",
        optim="sgd",
        learning_rate=0.5,
        num_train_epochs=1,
        per_device_train_batch_size=24 // world,
    )
    trainer = CustomClipTrainer(model, args, None, tiny_dataset(31), tiny_dataset(31), tiny_processor())
    trainer.train()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        numbers = {k: torch.tensor([v]) for k, v in metrics.items() if "recall" in k or "loss" in k}
        save_file({**trained, **numbers}, file)


if __name__ == "__main__":
    task, *rest = sys.argv[1:]
    {"gradients": gradients, "training": training}[task](*rest)
