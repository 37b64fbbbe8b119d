"""CustomClipTrainer: transformers' Trainer for image-caption pairs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import EvalLoopOutput, seed_worker

from ..data.collator import ContrastiveCollator
from ..data.pairs import PairDataset, RetrievalDataset
from ..data.sampler import TwinFreeBatchSampler
from ..evaluation.retrieval import retrieval_metrics
from ..features.cache import FeatureCache, check_still_frozen
from ..hub.checkpoints import HeadsOnlyCheckpointsMixin
from ..hub.training import PublishingMixin
from ..losses import gather_rows, row_counts
from .arguments import CustomClipTrainingArguments
from .finite import check_gradient_norm, not_finite_loss
from .gradient_cache import cached_backward, split_batch
from .layer_rates import rate_factors, split_by_rate
from .whole_checkpoints import WholeCheckpointsMixin

_TEMPERATURE = ("logit_scale", "logit_bias")
_EMBEDDED = ("image_embeds", "text_embeds", "image_ids", "text_image_ids")


class CustomClipTrainer(PublishingMixin, HeadsOnlyCheckpointsMixin, WholeCheckpointsMixin, Trainer):  # type: ignore[misc]
    """`Trainer` on datasets with the columns `image`, `captions` and `image_id`.

    Batches hold no image twice, the loss compares with every process's pairs, `evaluate()` reports retrieval
    recalls (`eval_t2i_recall@1`, …, `eval_rsum`), and checkpoints hold the processor and the code files.

    Args:
        image_transform: for training pictures, from RGB picture to RGB picture (`data.build_augmentation`).
    """

    args: CustomClipTrainingArguments
    model: Any
    _image_names: np.ndarray | None = None

    def __init__(
        self,
        model: Any = None,
        args: CustomClipTrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: Any = None,
        image_transform: Callable[[Any], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        args = args or CustomClipTrainingArguments()
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=data_collator,
            **kwargs,
        )
        self.image_transform = image_transform
        if data_collator is None:
            self.data_collator = ContrastiveCollator(processing_class, self.model.config.max_text_length)
        self.feature_cache = FeatureCache(
            mode=args.feature_cache,
            folder=args.feature_cache_dir,
            precision=args.feature_precision,
            unreadable=args.unreadable_images,
            device=args.device,
            workers=args.dataloader_num_workers,
            split_weights=self.is_fsdp_enabled or is_deepspeed_zero3_enabled(),
            is_main=args.process_index == 0,
            show_progress=not args.disable_tqdm,
        )

    # ---- Data ----

    def get_train_dataloader(self) -> DataLoader:
        """Twin-free batches of the chosen captions, this process's share of each."""
        if self.train_dataset is None:
            raise ValueError("training needs a train_dataset")
        first = self.args.captions_per_image if self.args.caption_sampling == "first" else None
        pairs = PairDataset(
            **self.feature_cache.inputs(
                self.model,
                self.train_dataset,
                self.data_collator,
                captions_per_image=first,
                image_transform=self.image_transform,
            )
        )
        self._image_names = pairs.table.names
        sampler = TwinFreeBatchSampler(
            pairs.table.captions_of_images(),
            self._train_batch_size,
            captions_per_image=self.args.captions_per_image,
            caption_sampling=self.args.caption_sampling,
            drop_last=self.args.dataloader_drop_last,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            process_index=self.args.process_index,
            num_processes=self.args.world_size,
        )
        return self._loader(
            pairs,
            batch_sampler=sampler,
            worker_init_fn=partial(
                seed_worker, num_workers=self.args.dataloader_num_workers, rank=self.args.process_index
            ),
        )

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """Images with all their captions, this process's share of them in order."""
        known: Any = self.eval_dataset
        if eval_dataset is None and known is None:
            raise ValueError("evaluation needs an eval_dataset")
        chosen = known[eval_dataset] if isinstance(eval_dataset, str) else eval_dataset
        dataset = known if chosen is None else chosen
        items = RetrievalDataset(**self.feature_cache.inputs(self.model, dataset, self.data_collator))
        # Unbroken stretches: one after the other they are the order that one process has.
        share = np.array_split(np.arange(len(items)), self.args.world_size)[self.args.process_index]
        return self._loader(items, sampler=share.tolist(), batch_size=self.args.eval_batch_size)

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        """As `get_eval_dataloader`."""
        return self.get_eval_dataloader(test_dataset)

    def num_examples(self, dataloader: DataLoader) -> int:
        """Pairs that an epoch shows, or images that are evaluated."""
        sampler = dataloader.batch_sampler
        return (
            sampler.num_pairs
            if isinstance(sampler, TwinFreeBatchSampler)
            else super().num_examples(dataloader)
        )

    def _loader(self, dataset: PairDataset | RetrievalDataset, **options: Any) -> DataLoader:
        if not dataset.is_kept:  # kept features lie in memory, where workers would only copy them
            options |= {
                "num_workers": self.args.dataloader_num_workers,
                "pin_memory": self.args.dataloader_pin_memory,
                "persistent_workers": self.args.dataloader_persistent_workers,
                "prefetch_factor": self.args.dataloader_prefetch_factor,
            }
        loader = DataLoader(dataset, collate_fn=self.data_collator, **options)
        # The samplers have dealt out the shares; accelerate would even them out with images shown twice.
        return prepare_data_loader(
            loader, self.args.device, num_processes=1, process_index=0, put_on_device=True
        )

    # ---- Loss ----

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The model's contrastive loss, over the pairs of all processes if `gather_negatives`."""
        check_still_frozen(self.model, inputs)
        if self.args.world_size == 1 or not self.args.gather_negatives:
            outputs = model(**inputs, return_loss=True)
            loss = outputs.loss
        else:
            outputs = model(**inputs)
            loss = self._loss_over_processes(
                outputs.image_embeds, outputs.text_embeds, outputs.logit_scale, inputs.get("image_ids")
            )
        if model.training:
            self._check_loss(loss, inputs)
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """As in `Trainer`; with `gradient_cache_chunk_size` the towers see the batch in chunks."""
        if self.args.gradient_cache_chunk_size is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        inputs = self._prepare_inputs(inputs)
        check_still_frozen(self.model, inputs)
        # As many chunks on every process: each forward pass of theirs is one for all.
        counts = row_counts(next(iter(inputs.values())))
        chunks = min(math.ceil(max(counts) / self.args.gradient_cache_chunk_size), min(counts))
        unwrapped = self.accelerator.unwrap_model(model)

        def batch_loss(images: torch.Tensor, texts: torch.Tensor, ids: torch.Tensor | None) -> torch.Tensor:
            loss = self._loss_over_processes(images, texts, unwrapped.inverse_temperature(), ids)
            self._check_loss(loss, inputs)
            return loss

        steps = self.current_gradient_accumulation_steps
        loss = cached_backward(
            model,
            split_batch(inputs, chunks),
            batch_loss,
            temperature=[
                parameter
                for name, parameter in unwrapped.named_parameters()
                if name.split(".")[-1] in _TEMPERATURE and parameter.requires_grad
            ],
            backward=self.accelerator.backward,
            forward_context=self.compute_loss_context_manager,
            no_sync=partial(self.accelerator.no_sync, model),
            factor=1 / steps,
        )
        return loss / steps

    def _loss_over_processes(
        self, images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, ids: torch.Tensor | None
    ) -> torch.Tensor:
        model = self.accelerator.unwrap_model(self.model)
        if self.args.world_size == 1 or not self.args.gather_negatives:
            return model.contrastive_loss(images, texts, scale, ids)
        counts = row_counts(images)
        loss = model.contrastive_loss(
            images,
            texts,
            scale,
            ids,
            all_image_embeds=gather_rows(images, counts),
            all_text_embeds=gather_rows(texts, counts),
            all_image_ids=None if ids is None else gather_rows(ids, counts),
            offset=sum(counts[: self.args.process_index]),
        )
        # A process with more pairs counts for more: the mean over processes is then the mean over pairs.
        return loss * (len(images) * len(counts) / sum(counts))

    def _check_loss(self, loss: torch.Tensor, inputs: dict[str, Any]) -> None:
        if bool(torch.isfinite(loss)):
            return
        ids = inputs.get("image_ids")
        numbers = [] if ids is None else ids.tolist()
        names = numbers if self._image_names is None else [self._image_names[number] for number in numbers]
        raise not_finite_loss(loss, self.state.global_step + 1, self.model, inputs, names)

    # ---- Optimizer ----

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As in `Trainer`; towers by `tower_learning_rate` and `layer_decay`."""
        known, args = self.optimizer, self.args
        optimizer = super().create_optimizer(model)
        if known is None and (args.tower_learning_rate is not None or args.layer_decay != 1):
            rate = args.learning_rate if args.tower_learning_rate is None else args.tower_learning_rate
            towers = self.accelerator.unwrap_model(self.model)
            split_by_rate(optimizer, rate_factors(towers, rate / args.learning_rate, args.layer_decay))
        return optimizer

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        check_gradient_norm(norm, self.state.global_step + 1, scaled=self.accelerator.scaler is not None)
        return norm

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """As in `Trainer`, without the temperature: decay would pull it towards 1."""
        names = super().get_decay_parameter_names(model)
        return [name for name in names if not name.endswith("logit_scale")]

    # ---- Evaluation ----

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Embed every image and caption once, then rank; `predictions` are the image and text embeddings."""
        self.model.eval()
        self.callback_handler.eval_dataloader = dataloader
        parts: dict[str, list[torch.Tensor]] = {}
        for inputs in dataloader:
            for name, rows in self._embed(inputs).items():
                parts.setdefault(name, []).append(rows)
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        own = [torch.cat(parts[name]) for name in _EMBEDDED]
        everyone: Any = [gather_rows(rows, row_counts(rows)) for rows in own]
        metrics = retrieval_metrics(*everyone) | {"loss": self._eval_loss(*everyone)}
        predictions: Any = tuple(rows.cpu().numpy() for rows in everyone[:2])
        return EvalLoopOutput(
            predictions=predictions,
            label_ids=None,
            metrics={f"{metric_key_prefix}_{name}": value for name, value in metrics.items()},
            num_samples=len(everyone[0]),
        )

    @torch.no_grad()
    def _embed(self, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        inputs = self._prepare_inputs(inputs)
        text_image_ids = inputs.pop("text_image_ids", inputs["image_ids"])
        with self.compute_loss_context_manager():
            outputs = self.model(**inputs)
        rows = (outputs.image_embeds, outputs.text_embeds, inputs["image_ids"], text_image_ids)
        return dict(zip(_EMBEDDED, rows, strict=True))

    @torch.no_grad()
    def _eval_loss(
        self,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        image_ids: torch.Tensor,
        text_image_ids: torch.Tensor,
    ) -> float:
        """Mean loss of each image with its first caption, in batches as large as the training's."""
        order = torch.argsort(text_image_ids, stable=True)
        first = order[torch.searchsorted(text_image_ids[order], image_ids)]
        size = self.args.train_batch_size * self.args.world_size
        losses = [
            self.model.contrastive_loss(
                image_embeds[i : i + size],
                text_embeds[first[i : i + size]],
                self.model.inverse_temperature(),
                image_ids[i : i + size],
            )
            * len(image_ids[i : i + size])
            for i in range(0, len(image_ids), size)
        ]
        return float(torch.stack(losses).sum() / len(image_ids))

    # ---- Saving ----

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """As in `Trainer`, with the arguments as JSON: it pickles them, and no pickle is to be published."""
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            arguments = json.dumps(self.args.to_dict(), indent=2, default=str)
            (folder / "training_args.json").write_text(arguments + "\n", encoding="utf-8")
