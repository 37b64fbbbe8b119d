"""A trainer of tiny towers on drawn images: seconds for a run. Import as `from tiny_training import make_trainer`."""

from tiny import tiny_dataset, tiny_model, tiny_processor

from hf_customclip import CustomClipTrainer, CustomClipTrainingArguments


def make_trainer(folder, model=None, rows=24, **arguments):
    defaults = {
        "per_device_train_batch_size": 16,
        "batch_of": "pairs",
        "captions_per_image": 2,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    args = CustomClipTrainingArguments(output_dir=str(folder), **{**defaults, **arguments})
    data = tiny_dataset(rows)
    return CustomClipTrainer(
        tiny_model() if model is None else model,
        args,
        train_dataset=data,
        eval_dataset=data,
        processing_class=tiny_processor(),
    )
