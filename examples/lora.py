"""Adapters (LoRA) in the text tower on top of a trained model, then merged into one that loads like any other.

python examples/lora.py outputs/sample examples/sample outputs/lora

Writes the adapter with the heads to OUTPUT/adapter (a few MB) and the merged model to OUTPUT/merged, which
`hf-customclip push` publishes. The adapter alone is published by peft, `adapted.push_to_hub("user/adapter")`, and
loaded by `PeftModel.from_pretrained(base_model, "user/adapter")`; it names its base model as that was loaded, so load
the base by its Hub id before training. The temperature stays as the trained model has it: peft saves modules, and it
is none.
"""

import sys

from peft import LoraConfig, PeftModel, get_peft_model

from hf_customclip import CustomClipModel, CustomClipProcessor, CustomClipTrainer, CustomClipTrainingArguments
from hf_customclip.data import load_image_text_dataset

HEADS = ["visual_projection", "text_projection"]


def add_adapters(
    model: CustomClipModel, layers: str = r"text_model\..*\.(query|value|q_lin|v_lin)"
) -> PeftModel:
    """The model with adapters in the layers that match; they and the heads are trained, all else is frozen."""
    return get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=layers, modules_to_save=HEADS))


def train(model: PeftModel, processor: CustomClipProcessor, data: dict, output: str, **arguments) -> None:
    """Train adapters and heads; the tower without adapters still runs once only."""
    args = CustomClipTrainingArguments(output, report_to="none", **{"learning_rate": 1e-4, **arguments})
    trainer = CustomClipTrainer(model, args, None, data["train"], data.get("validation"), processor)
    trainer.train()
    model.save_pretrained(f"{output}/adapter")


def merge(base: str, output: str) -> CustomClipModel:
    """Load the trained adapter onto the base model and write the two as one."""
    loaded = PeftModel.from_pretrained(CustomClipModel.from_pretrained(base), f"{output}/adapter")
    merged = loaded.merge_and_unload()
    merged.save_pretrained(f"{output}/merged")
    CustomClipProcessor.from_pretrained(base).save_pretrained(f"{output}/merged")
    return merged


if __name__ == "__main__":
    base, source, output = sys.argv[1:]
    train(
        add_adapters(CustomClipModel.from_pretrained(base)),
        CustomClipProcessor.from_pretrained(base),
        load_image_text_dataset(source),
        output,
    )
    merge(base, output)
