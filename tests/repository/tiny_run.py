"""Train a tiny model on drawn images, save it, load it back: all that an installation without extras has to do."""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny_training import make_trainer

with tempfile.TemporaryDirectory() as folder:
    trainer = make_trainer(folder)
    trainer.train()
    trainer.save_model()

    from transformers import AutoModel, AutoProcessor

    AutoModel.from_pretrained(folder)
    AutoProcessor.from_pretrained(folder)
    print(f"trained, saved and loaded: rsum {trainer.evaluate()['eval_rsum']:.1f}")
