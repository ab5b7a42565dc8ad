"""Base class of the tasks of prefix language models."""

import os
from argparse import Namespace
from contextlib import nullcontext
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.distributed.utils import get_global_rank
from omegaconf import open_dict
from torch import nn

from ..compat import read_checkpoint
from ..compat.evaluation import refuse_empty_evaluation
from ..errors import UserError
from ..generation.prefix_generator import PrefixGenerator, check_generation_options
from ..generation.sample_log import SampleWriter, sample_continuations
from ..interop.adapter import check_fit, put_adapter
from ..interop.peft_adapter import read_adapter
from ..modules.prefix_transformer import PrefixTransformer
from .measures import num_trained, peak_memory_mib
from .text_task import TextTask

ADAPTER_HELP = (
    "decoding and evaluation: folder with an adapter of the model that --path names, as peft and "
    "fairtale gpt2 adapter save it"
)


class PrefixLMTask(TextTask):
    """A task whose model continues prefixes from left to right.

    It provides the number of positions, evaluation, generation, and samples during training.
    """

    fast_fp32_products = True
    num_segments = 0
    shares_positions = False  # whether the task, too, has the option --max-target-positions
    positions_options: str  # options that determine needed_positions, for the error message

    def __init__(self, cfg: Any, dictionary: Dictionary) -> None:
        super().__init__(cfg, dictionary)
        self._writer: SampleWriter | None = None
        self._tried_samples = False

    # ------------------------------------------------------------------------------ model

    @property
    def needed_positions(self) -> int:
        """The number of positions that a new model gets."""
        raise NotImplementedError

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the model; a new model gets the positions that the task's rows need.

        Raises:
            UserError: the model of a checkpoint has too few positions, or ``--lora-adapter`` does
                not fit it.
        """
        given = getattr(cfg, "max_target_positions", 0)
        if not from_checkpoint and (given is None or (given and self.shares_positions)):
            with nullcontext() if isinstance(cfg, Namespace) else open_dict(cfg):
                cfg.max_target_positions = max(given or 0, self.needed_positions)
        model = super().build_model(cfg, from_checkpoint)
        positions = model.max_positions()
        if isinstance(positions, int) and positions < self.needed_positions:
            raise UserError(
                f"rows of {self.needed_positions} positions are more than the model's "
                f"{positions}: lower {self.positions_options}"
            )
        if self.cfg.lora_adapter:
            self._put_adapter(model, self.cfg.lora_adapter, from_checkpoint)
        return model

    def _put_adapter(self, model: nn.Module, folder: str, from_checkpoint: bool) -> None:
        if not from_checkpoint:
            raise UserError(
                f"--lora-adapter {folder}: is for decoding and evaluation; adapters are trained "
                "with --lora-rank and --finetune-from-model"
            )
        transformer = next((m for m in model.modules() if isinstance(m, PrefixTransformer)), None)
        if transformer is None:
            raise UserError(f"--lora-adapter {folder}: a {type(model).__name__} takes no adapters")
        put_adapter(transformer, read_adapter(folder))

    @classmethod
    def check_command(cls, args: Namespace) -> None:
        """Refuse a context window, and an adapter of another base, before any model is loaded.

        Raises:
            UserError: ``--context-window`` is given, or ``--lora-adapter`` is no adapter, or does
                not belong to ``--path``.
        """
        _refuse_context_window(getattr(args, "context_window", 0))
        super().check_command(args)
        folder, paths = getattr(args, "lora_adapter", None), getattr(args, "path", None)
        if not folder or not paths:
            return
        adapter = read_adapter(folder)
        for path in paths.split(os.pathsep):
            check_fit(adapter, read_checkpoint(path)["model"], path)

    # ------------------------------------------------------------------------- evaluation

    def eval_lm_dataloader(
        self,
        dataset: Any,
        max_tokens: int | None = 36000,
        batch_size: int | None = None,
        max_positions: Any = None,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 1,
        data_buffer_size: int = 10,
        context_window: int = 0,
    ) -> Any:
        """Make the batches of ``fairseq-eval-lm``, in which every row is scored from its beginning.

        Args:
            context_window: must be 0, because rows have no preceding context. The other arguments
                are those of fairseq's ``get_batch_iterator``.

        Raises:
            UserError: a context window is given, or no row is left to score.
        """
        _refuse_context_window(context_window)
        batches = self.get_batch_iterator(
            dataset,
            max_tokens,
            batch_size,
            max_positions,
            ignore_invalid_inputs=True,
            num_shards=num_shards,
            shard_id=shard_id,
            num_workers=num_workers,
            data_buffer_size=data_buffer_size,
        ).next_epoch_itr(shuffle=False)
        return refuse_empty_evaluation(batches, len(dataset))

    # ------------------------------------------------------------------------- generation

    def build_generator(self, models: list[nn.Module], args: Any, **kwargs: Any) -> Any:
        """Build fairseq's generator for prefixes (or its scorer, with ``--score-reference``).

        Raises:
            UserError: an option is out of range, or has no effect in this task.
        """
        check_generation_options(args)
        if getattr(args, "match_source_len", False):
            raise UserError("--match-source-len: a continuation has no source to match")
        kwargs.setdefault("seq_gen_cls", PrefixGenerator)
        return super().build_generator(models, args, **kwargs)

    # ------------------------------------------------------------------------- validation

    def begin_epoch(self, epoch: int, model: nn.Module) -> None:
        """Try ``--sample-prompts`` once, so that mistakes are reported before training starts."""
        if not self._tried_samples and self._writes_samples():
            self._sample(model, min(1, self.cfg.sample_length))
        self._tried_samples = True

    def _writes_samples(self) -> bool:
        return get_global_rank() == 0 and bool(self.cfg.sample_prompts)

    def _sample(self, model: nn.Module, length: int) -> tuple[list[str], list[str], float]:
        """Sample; return the prompts, the continuations, and the speed in tokens/s."""
        prompts = [p for p in self.cfg.sample_prompts.split("|") if p.strip()]
        options = (length, self.cfg.sample_topk, self.cfg.sample_temperature)
        return prompts, *sample_continuations(self, model, prompts, *options)

    def post_validate(self, model: nn.Module, stats: dict[str, Any], agg: Any) -> None:
        """Log the first worker's measures, and write its continuations of ``--sample-prompts``."""
        # of other numbers, fairseq logs six digits
        stats["trained_params"] = torch.tensor(num_trained(model))
        stats["peak_mib"] = peak_memory_mib()
        if not self._writes_samples():
            return
        prompts, texts, speed = self._sample(model, self.cfg.sample_length)
        if self._writer is None:
            self._writer = SampleWriter(self.cfg.tensorboard_logdir)
        self._writer.write(prompts, texts, stats["num_updates"], speed)
        stats["sample_tok_s"] = round(speed)


def _refuse_context_window(size: int) -> None:
    if size > 0:
        raise UserError(
            f"--context-window {size}: rows are scored from their beginning and have no preceding "
            "context; leave it out"
        )
