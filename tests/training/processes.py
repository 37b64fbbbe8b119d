"""What `accelerate launch` runs for test_processes: one batch's gradients, training runs, and sharded ones."""

import json
import os
import sys
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from tiny import tiny_dataset, tiny_model, tiny_processor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from hf_customclip import CustomClipTrainer, CustomClipTrainingArguments

# In torch 2.6, FSDP2 asks the CPU for what only an accelerator has there.
SHARDS_ON_CPU = hasattr(torch.cpu.Stream, "record_event")
CONFIGS = Path(__file__).resolve().parents[2] / "examples" / "configs" / "accelerate"


def arguments(folder, **more):
    return CustomClipTrainingArguments(
        output_dir=folder,
        report_to="none",
        disable_tqdm=True,
        **{"use_cpu": True, "save_strategy": "no", **more},
    )


def fixed_batch(rows):
    """Cached features of 37 or more pairs, of which 5 show an image that another process has too."""
    generator = torch.Generator().manual_seed(1)
    image_ids = torch.arange(rows)
    image_ids[20:25] = image_ids[1:6]
    return {
        "image_features": torch.randn(rows, 32, generator=generator),
        "text_features": torch.randn(rows, 32, generator=generator),
        "image_ids": image_ids,
    }


def images_with_captions(count=23):
    """Cached features of images with one to three captions each, and equal captions on two images."""
    generator = torch.Generator().manual_seed(2)
    text_image_ids = torch.arange(count).repeat_interleave(torch.arange(count) % 3 + 1)
    caption_ids = torch.arange(len(text_image_ids))
    caption_ids[-1] = caption_ids[0]
    return {
        "image_features": torch.randn(count, 32, generator=generator),
        "text_features": torch.randn(len(text_image_ids), 32, generator=generator),
        "image_ids": torch.arange(count),
        "text_image_ids": text_image_ids,
        "caption_ids": caption_ids,
    }


def taught():
    """The same with embeddings of a teacher."""
    batch, generator = images_with_captions(), torch.Generator().manual_seed(3)
    counts = {"teacher_images": len(batch["image_ids"]), "teacher_texts": len(batch["text_image_ids"])}
    return batch | {name: torch.randn(count, 16, generator=generator) for name, count in counts.items()}


def fixed_inputs(rows=9):
    """Pixels and tokens of 9 pairs, one image twice."""
    data = tiny_dataset(rows - 1)
    images, texts = [*data["image"], data[0]["image"]], [c[0] for c in data["captions"]]
    inputs = dict(tiny_processor()(images=images, text=[*texts, data[0]["captions"][1]], return_tensors="pt"))
    names = ("pixel_values", "input_ids", "attention_mask")
    return {name: inputs[name] for name in names} | {"image_ids": torch.tensor([*range(rows - 1), 0])}


def case(model, batch, chunk_size=None, scale=1):
    """Loss and gradients of a batch that is shared out over the processes there are."""
    trainer = CustomClipTrainer(model, arguments("unused", gradient_cache_chunk_size=chunk_size))
    rank, world = trainer.args.process_index, trainer.args.world_size
    rows = -(-len(batch["image_ids"]) // world)
    share = {name: values[rank * rows : (rank + 1) * rows] for name, values in batch.items()}
    if "text_image_ids" in batch:
        owned = torch.isin(batch["text_image_ids"], share["image_ids"])
        of_texts = {"text_features", "text_image_ids", "caption_ids", "teacher_texts"} & batch.keys()
        share |= {name: batch[name][owned] for name in of_texts}
    wrapped = DistributedDataParallel(model) if world > 1 else model
    if chunk_size:
        trainer.current_gradient_accumulation_steps = 1
        loss = trainer.training_step(wrapped, share)
    else:
        loss = trainer.compute_loss(wrapped.train(), share)
        (loss * scale).backward()
    loss = trainer.accelerator.gather(loss.detach()[None]).mean()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**found, "loss": loss[None]}


def gradients(file):
    """Save losses and gradients of fixed batches: even and uneven shares, duplicates, both losses, chunks, towers."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    cases = {}
    for loss_type in ("softmax", "sigmoid"):
        for same_image, rows, chunk_size in (
            ("ignore", 64, None),
            ("ignore", 37, None),
            ("positive", 37, None),
            ("ignore", 37, 7),
        ):
            model = tiny_model(loss_type=loss_type, projection_dropout=0.0, same_image=same_image)
            cases[f"{loss_type}/{same_image}/{rows}/{chunk_size}"] = case(
                model, fixed_batch(rows), chunk_size
            )
        for chunk_size in (None, 7):
            model = tiny_model(loss_type=loss_type, projection_dropout=0.0)
            cases[f"{loss_type}/images/{chunk_size}"] = case(model, images_with_captions(), chunk_size)
        for chunk_size in (None, 2):
            model = tiny_model(loss_type=loss_type, projection_dropout=0.0)
            model.unfreeze()
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
            cases[f"{loss_type}/towers/{chunk_size}"] = case(model, fixed_inputs(), chunk_size)
    for chunk_size in (None, 7):
        cases[f"taught/{chunk_size}"] = case(tiny_model(projection_dropout=0.0), taught(), chunk_size)
    model = tiny_model(projection_dropout=0.0)
    cases["scaled"] = case(model, fixed_batch(64), scale=world)
    if int(os.environ.get("RANK", 0)) == 0:
        save_file(
            {f"{name}:{key}": value for name, found in cases.items() for key, value in found.items()}, file
        )


def training(file):
    """Save the heads after an epoch of plain gradient descent in batches of 24 over all processes."""
    model = tiny_model(projection_dropout=0.0)
    world = int(os.environ.get("WORLD_SIZE", 1))
    args = arguments(
        f"{file}.run",
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


def shard_over_cpus():
    """From here on FSDP as fsdp.yaml says. accelerate offers it for accelerators only: gloo passes for one."""
    from accelerate.state import AcceleratorState, DistributedType, PartialState

    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._prepare_backend = lambda self, *_: ("gloo", DistributedType.MULTI_GPU)
    options = yaml.safe_load((CONFIGS / "fsdp.yaml").read_text())["fsdp_config"]
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_TORCH_DEVICE": "cpu"}
    os.environ |= {name.upper(): str(value) for name, value in options.items()}


def towers(folder, resume_from=None, **more):
    """Train both towers in part, from above the highest temperature; save model and losses to the folder."""
    model = tiny_model(projection_dropout=0.0, logit_scale_init_value=5.0)
    model.unfreeze("text")
    model.unfreeze("vision", last_groups=1)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    world = int(os.environ.get("WORLD_SIZE", 1))
    args = arguments(
        str(folder),
        # Large beside tiny gradients, whose sign is a matter of rounding.
        adam_epsilon=1e-2,
        learning_rate=1e-2,
        max_steps=3,
        logging_steps=1,
        per_device_train_batch_size=24 // world,
        feature_cache="never",
        save_steps=2,
        **{"save_strategy": "steps", "use_cpu": world == 1, **more},
    )
    trainer = CustomClipTrainer(model, args, None, tiny_dataset(31), tiny_dataset(31), tiny_processor())
    trainer.train(resume_from_checkpoint=resume_from)
    metrics = trainer.evaluate()
    trainer.save_model()
    if trainer.is_world_process_zero():
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        (folder / "losses.json").write_text(json.dumps([*losses, metrics["eval_loss"], metrics["eval_rsum"]]))
    return trainer


def sharded(folder):
    """The run of `towers` over all processes, each with its part of the weights; again from its checkpoint."""
    shard_over_cpus()
    trainer = towers(folder / "sharded")
    assert trainer.is_fsdp_enabled and isinstance(trainer.model, FSDPModule)
    assert all(isinstance(p, DTensor) for p in trainer.model.parameters())
    towers(folder / "resumed", str(folder / "sharded" / "checkpoint-2"))
    try:
        towers(folder / "cached", gradient_cache_chunk_size=5)
    except ValueError as error:
        assert "does not work with FSDP" in str(error)
    else:
        raise AssertionError("gradient caching ran")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    gradients(folder / "gradients-2.safetensors")
    training(folder / "training-2.safetensors")
    if SHARDS_ON_CPU:
        sharded(folder)
