"""CustomClipTrainer: transformers' Trainer for image-caption pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, TrainOutput, seed_worker

from .._files import write_json
from ..data.data_collator import ContrastiveCollator
from ..data.pairs import RetrievalDataset, TrainingDataset
from ..evaluation.corrected import corrected_retrieval_metrics
from ..evaluation.embedded_dataset import EmbeddedDataset
from ..evaluation.languages import metrics_by_language
from ..features.cache import FeatureCache
from ..features.reasons import not_cached
from ..features.shard_dataset import FeatureShards
from ..hub.publishing import Publisher
from ..inference.hubness import HubnessBank
from .checkpoints import Checkpoints
from .checks import check_tokenizer
from .contrastive_step import ContrastiveStep
from .distributed import gather_rows, row_counts
from .ema import WeightAverage
from .finite import check_gradient_norm
from .head_init import CachedFeatures, standardize_features, start_heads_at_cca
from .hubness import hubness_bank
from .refused import refuse_ignored_parameters
from .retrieval_image import RetrievalImageCallback
from .sharding import give_scalars_a_row, under_its_own_class, with_scalars
from .trained_weights import hold_trained_in_float32, rate_factors, split_by_rate
from .training_args import CustomClipTrainingArguments

SOME = 200
_EMBEDDED = ("image_embeds", "text_embeds", "image_ids", "text_image_ids")


class CustomClipTrainer(Trainer):
    """`Trainer` on datasets with the columns `image`, `captions` and `image_id`.

    Batches hold no image twice, the loss compares with every process's pairs, `evaluate()` reports retrieval
    recalls (`eval_t2i_recall@1`, …, `eval_rsum`), and checkpoints hold the processor and the code files.

    Args:
        image_transform: for training images, from RGB image to RGB image (`data.build_augmentation`).
    """

    args: CustomClipTrainingArguments
    model: Any

    def __init__(
        self,
        model: Any = None,
        args: CustomClipTrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Dataset | FeatureShards | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: Any = None,
        image_transform: Callable[[Any], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_ignored_parameters(kwargs)
        args = args or CustomClipTrainingArguments()
        self.checkpoints, self.publisher, self.step = (
            Checkpoints(self),
            Publisher(self),
            ContrastiveStep(self),
        )
        super().__init__(
            model=_compiled_in_place(model),
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=data_collator,
            **kwargs,
        )
        if args.early_stopping_patience is not None:
            self.add_callback(
                EarlyStoppingCallback(args.early_stopping_patience, args.early_stopping_threshold)
            )
        self.retrieval_image = RetrievalImageCallback(self)
        self.add_callback(self.retrieval_image)
        self.image_transform = image_transform
        self.average: WeightAverage | None = None
        self._scalars = give_scalars_a_row(self.model) if self.is_fsdp_enabled else []
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

    # ---- Training ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; True resumes from the newest checkpoint, or starts where there is none yet.

        Raises:
            PublishError: the model was to be published by the end and could not be; it is saved.
        """
        checkpoint = self.checkpoints.find(resume_from_checkpoint)
        self.checkpoints.discard_unfinished()
        self._check_captions()
        self.publisher.begin()
        hold_trained_in_float32(self.model)
        if checkpoint is None:
            self._start_heads()
        if self.args.method == "closed_form":
            output = TrainOutput(0, 0.0, {})
        else:
            with self._average_of_weights():
                output = super().train(checkpoint, *args, **kwargs)
        self.publisher.finish()
        return output

    def _check_captions(self) -> None:
        tokenizer = getattr(self.processing_class, "tokenizer", None)
        if tokenizer is not None and isinstance(self.train_dataset, Dataset):
            first = self.train_dataset.select_columns("captions")[:SOME]["captions"]
            check_tokenizer(tokenizer, self.model, [caption for captions in first for caption in captions])

    @contextmanager
    def _average_of_weights(self) -> Iterator[None]:
        """Inside, the heads are averaged over the steps; afterwards the model is the average."""
        decay = self.args.ema_decay
        # Without data, training says so itself.
        averages = decay is not None and not self._in_shards() and self.train_dataset is not None
        if not averages or not self._training_data().is_cached:
            yield
            return
        assert decay is not None
        self.average = WeightAverage(self.accelerator.unwrap_model(self.model), decay)
        self.add_callback(self.average)
        try:
            yield
            # The best checkpoint, where that was loaded, holds its own average.
            if not (self.args.load_best_model_at_end and self.state.best_model_checkpoint):
                self.average.put_into_model()
        finally:
            self.remove_callback(self.average)
            self.average = None

    def _in_shards(self) -> bool:
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def _shown_weights(self) -> AbstractContextManager[None]:
        return nullcontext() if self.average is None else self.average.shown()

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The model's contrastive loss, over the pairs of all processes if `gather_negatives`."""
        loss, outputs = self.step.loss(model, inputs)
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """As in `Trainer`; with `gradient_cache_chunk_size` the towers see the batch in chunks."""
        if self.is_fsdp_enabled:
            # In its forward pass the model holds the temperature, but only the copy gathered for it.
            self.accelerator.unwrap_model(model.train()).inverse_temperature()
        if self.args.gradient_cache_chunk_size is None:
            return super().training_step(model, inputs, num_items_in_batch)
        return self.step.run_in_chunks(model, inputs, self.args.gradient_cache_chunk_size)

    # ---- Data ----

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of images with their chosen captions, or of pairs without duplicates; this process's share."""
        if self.train_dataset is None:
            raise ValueError("training needs a train_dataset")
        dataset = self._training_data()
        self.step.image_names = None if isinstance(dataset, FeatureShards) else dataset.table.names
        sampler = dataset.batch_sampler(
            self._train_batch_size,
            captions_per_image=self.args.captions_per_image,
            caption_sampling=self.args.caption_sampling,
            drop_last=self.args.dataloader_drop_last,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            process_index=self.args.process_index,
            num_processes=self.args.world_size,
        )
        return self._loader(
            dataset,
            batch_sampler=sampler,
            worker_init_fn=partial(
                seed_worker, num_workers=self.args.dataloader_num_workers, rank=self.args.process_index
            ),
        )

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader[Any]:
        """Images with all their captions, this process's share of them in order."""
        known: Any = self.eval_dataset
        if eval_dataset is None and known is None:
            raise ValueError("evaluation needs an eval_dataset")
        chosen = known[eval_dataset] if isinstance(eval_dataset, str) else eval_dataset
        dataset = known if chosen is None else chosen
        items = self.feature_cache.retrieval_items(self.model, dataset, self.data_collator)
        # Unbroken stretches: one after the other they are the order that one process has.
        share = np.array_split(np.arange(len(items)), self.args.world_size)[self.args.process_index]
        return self._loader(items, sampler=share.tolist(), batch_size=self.args.eval_batch_size)

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader[Any]:
        """As `get_eval_dataloader`."""
        return self.get_eval_dataloader(test_dataset)

    def num_examples(self, dataloader: DataLoader[Any]) -> int:
        """Images or pairs that an epoch shows, or images that are evaluated."""
        sampler = dataloader.batch_sampler
        shown = getattr(sampler, "num_images", getattr(sampler, "num_pairs", None))
        return super().num_examples(dataloader) if shown is None else shown

    def _loader(
        self, dataset: TrainingDataset | FeatureShards | RetrievalDataset, **options: Any
    ) -> DataLoader[Any]:
        if not dataset.is_cached:  # cached features lie in memory, where workers would only copy them
            options |= {
                "num_workers": self.args.dataloader_num_workers,
                "pin_memory": self.args.dataloader_pin_memory,
                "persistent_workers": self.args.dataloader_persistent_workers,
                "prefetch_factor": self.args.dataloader_prefetch_factor,
            }
        loader = DataLoader(dataset, collate_fn=self.data_collator, **options)
        accelerator_config: Any = self.args.accelerator_config  # no more a dict or path, by now
        # The samplers have dealt out the shares; accelerate would even them out with images shown twice.
        prepared: DataLoader[Any] = prepare_data_loader(
            loader,
            self.args.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            non_blocking=accelerator_config.non_blocking,
        )
        return prepared

    def _training_data(self) -> TrainingDataset | FeatureShards:
        assert self.train_dataset is not None
        if isinstance(self.train_dataset, FeatureShards):
            if self.args.teacher is not None:
                raise ValueError(
                    f"teacher={self.args.teacher!r} embeds the training images and captions themselves, and feature "
                    "shards hold none: train on the data, or without a teacher."
                )
            self.train_dataset.check_made_by(self.accelerator.unwrap_model(self.model), self.data_collator)
            return self.train_dataset.in_batches_of(self.args.batch_of)
        return self.feature_cache.training_items(
            self.model,
            self.train_dataset,
            self.data_collator,
            batch_of=self.args.batch_of,
            captions_per_image=self.args.captions_per_image
            if self.args.caption_sampling == "first"
            else None,
            image_transform=self.image_transform,
            views=self.args.image_views,
            teacher=self.args.teacher,
            unpaired_images=self.args.unpaired_images,
        )

    def _start_heads(self) -> None:
        model = self.accelerator.unwrap_model(self.model)
        wanted = self.args.method == "closed_form" or self.args.head_init == "cca"
        standardized = bool(getattr(model.config, "standardize_features", False))
        if self.train_dataset is None or not (wanted or standardized or self.args.head_init == "auto"):
            return
        dataset = self._training_data()
        if not dataset.is_cached:
            if wanted:
                raise not_cached(
                    "method='closed_form'" if self.args.method == "closed_form" else "head_init='cca'"
                )
            return
        heads = model.visual_projection, model.text_projection
        features = CachedFeatures(dataset, self.args.captions_per_image)
        if standardized:
            standardize_features(*heads, features)
        if wanted or self.args.head_init == "auto":
            cut = bool(getattr(model.config, "matryoshka_dims", None))
            start_heads_at_cca(*heads, features, strongest_first=cut)

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
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Embed every image and caption once, then rank.

        `predictions`, here and for `compute_metrics`, are the image and text embeddings, `label_ids` the image
        that each row of them belongs to.
        """
        with self._shown_weights():
            return self._evaluation(dataloader, metric_key_prefix)

    def _evaluation(self, dataloader: DataLoader[Any], metric_key_prefix: str) -> EvalLoopOutput:
        self.model.eval()
        self.callback_handler.eval_dataloader = dataloader
        parts: dict[str, list[torch.Tensor]] = {}
        for inputs in dataloader:
            for name, rows in self._embed(inputs).items():
                parts.setdefault(name, []).append(rows)
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        own = [torch.cat(parts[name]) for name in _EMBEDDED]
        everyone: Any = [gather_rows(rows, row_counts(rows)) for rows in own]
        items: Any = dataloader.dataset
        embedded = EmbeddedDataset(
            **dict(zip(_EMBEDDED, everyone, strict=True)), languages=items.table.languages
        )
        self.retrieval_image.draw(items.dataset, embedded, metric_key_prefix)
        metrics = embedded.metrics() | {"loss": self._eval_loss(*everyone)}
        if (bank := self._hubness_bank()) is not None:
            corrected = partial(corrected_retrieval_metrics, bank=bank)
            metrics |= metrics_by_language(*everyone, languages=embedded.languages, measure=corrected)
        image_embeds, text_embeds, *ids = (rows.cpu().numpy() for rows in everyone)
        predictions: Any = (image_embeds, text_embeds)
        if self.compute_metrics is not None:
            metrics |= self.compute_metrics(EvalPrediction(predictions, tuple(ids)))
        return EvalLoopOutput(
            predictions=predictions,
            label_ids=tuple(ids),
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

    def _hubness_bank(self) -> HubnessBank | None:
        if not self.args.hubness_bank_size or self.train_dataset is None or self._in_shards():
            return None
        images = self._training_data()
        if not images.is_cached:
            return None
        model = self.accelerator.unwrap_model(self.model)
        size, seed, captions = self.args.hubness_bank_size, self.args.seed, self.args.captions_per_image
        return hubness_bank(model, images, size, seed, captions)

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

    # ---- Saving and loading ----

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """As in `Trainer`, with the arguments as JSON: it pickles them, and no pickle is to be published."""
        self._save_weights(output_dir, state_dict)
        if self.average is not None and self.args.should_save:
            self.average.save_trained(Path(output_dir or str(self.args.output_dir)))

    def _save_weights(self, output_dir: str | None, state_dict: dict[str, Any] | None) -> None:
        if self.checkpoints.save_heads(output_dir, state_dict):
            return
        if self.is_fsdp_enabled:
            with under_its_own_class(self.model):
                super()._save(output_dir, with_scalars(state_dict or {}, self._scalars))
        else:
            super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            if (bank := self._hubness_bank()) is not None:
                bank.save(folder)
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            write_json(folder / "training_args.json", self.args.to_dict())
            self.checkpoints.write_training_record(folder)

    def _get_output_dir(self, trial: Any) -> str:
        return self.checkpoints.output_dir(super()._get_output_dir(trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self._shown_weights():
            self.checkpoints.write(partial(super()._save_checkpoint, model, trial))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self.checkpoints.load(resume_from_checkpoint, model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average is not None:
            self.average.resume(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if not self.checkpoints.load(self.state.best_model_checkpoint):
            super()._load_best_model()

    # ---- Publishing ----

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository, or find out before training that it cannot be published to."""
        self.publisher.prepare_repo(token, private)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save the model with its card to `output_dir` and publish that folder (see `Publisher.push`)."""
        return self.publisher.push(commit_message, blocking, token, revision, private, **kwargs)

    def create_model_card(
        self, *unused: Any, license: str | None = None, dataset: Any = None, **also_unused: Any
    ) -> None:
        """Write the card into `output_dir`; what else Trainer's own card is told, this one knows itself."""
        self.publisher.write_card(license, dataset)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        self.publisher.push_checkpoint(checkpoint_folder)


def _compiled_in_place(model: Any) -> Any:
    """The model itself in place of what `torch.compile(model)` has put around it, which renames its weights."""
    original = getattr(model, "_orig_mod", None)
    if original is None:
        return model
    original._compiled_call_impl = model.dynamo_ctx(original._call_impl)  # as `Module.compile` does
    return original
