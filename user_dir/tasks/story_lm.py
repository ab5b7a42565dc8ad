"""``story_lm``: train a language model on stories, one per line, and continue prompts."""

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.data import Dictionary
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import register_task
from omegaconf import II
from torch import Tensor, nn

from fairtale.data.corpus.words import WordCounter
from fairtale.data.story.blocks import BREAK_MODES, BlockDataset
from fairtale.data.story.dataset import PromptDataset, StoryDataset
from fairtale.errors import UserError
from fairtale.generation.prefix_generator import PrefixGenerator
from fairtale.interfaces import Batch
from fairtale.tasks.prefix_lm import ADAPTER_HELP, PrefixLMTask

logger = logging.getLogger(__name__)

DEFAULT_TOKENS_PER_SAMPLE = 256


@dataclass
class StoryLMConfig(FairseqDataclass):
    """Options of ``story_lm``."""

    data: Optional[str] = field(
        default=None,
        metadata={
            "help": "folder made by fairseq-preprocess; several folders, separated by ':', are "
            "joined"
        },
    )
    tokens_per_sample: Optional[int] = field(
        default=None,
        metadata={
            "help": "maximum number of tokens of a story; longer stories are cut (default: as in "
            f"the training of the checkpoint, else {DEFAULT_TOKENS_PER_SAMPLE})"
        },
    )
    # not a ChoiceEnum, which cannot be stored in a checkpoint if it is optional
    sample_break_mode: Optional[str] = field(
        default=None,
        metadata={
            "help": "what becomes of a text longer than --tokens-per-sample: eos: it is cut, and "
            "its end is lost; split: it is split into blocks; none: all texts are joined and split "
            "into full blocks, in which attention crosses from a text into the next (default: as "
            "in the training of the checkpoint, else eos)"
        },
    )
    pack: bool = field(
        default=False,
        metadata={
            "help": "put the stories of a batch into one row without padding; attention stays "
            "within each story"
        },
    )
    prompt_tokens: int = field(
        default=0,
        metadata={
            "help": "fairseq-generate: number of first tokens of each story that are the prompt; "
            "the rest is the reference (0: generate whole stories)"
        },
    )
    sample_prompts: Optional[str] = field(
        default=None,
        metadata={
            "help": "prompts that the model continues at each validation, separated by '|', as in "
            '"Once upon a time|One day"; the continuations are written to the log and to '
            "TensorBoard"
        },
    )
    sample_length: int = field(
        default=100, metadata={"help": "maximum length of the continuations of --sample-prompts"}
    )
    sample_topk: int = field(
        default=10, metadata={"help": "top-k for sampling the continuations of --sample-prompts"}
    )
    sample_temperature: float = field(
        default=1.0,
        metadata={"help": "temperature for sampling the continuations of --sample-prompts"},
    )
    lora_adapter: Optional[str] = field(default=None, metadata={"help": ADAPTER_HELP})
    tensorboard_logdir: Optional[str] = II("common.tensorboard_logdir")


@register_task("story_lm", dataclass=StoryLMConfig)
class StoryLMTask(PrefixLMTask):
    """Language modelling of stories, and continuation of prompts.

    Raises:
        UserError: an option is out of range.
    """

    cfg: StoryLMConfig

    remembered = {"tokens_per_sample": DEFAULT_TOKENS_PER_SAMPLE, "sample_break_mode": "eos"}
    positions_options = "--tokens-per-sample"

    def __init__(self, cfg: StoryLMConfig, dictionary: Dictionary) -> None:
        super().__init__(cfg, dictionary)
        if cfg.tokens_per_sample is not None and cfg.tokens_per_sample < 2:
            raise UserError(f"--tokens-per-sample {cfg.tokens_per_sample}: must be at least 2")
        if cfg.prompt_tokens < 0:
            raise UserError(f"--prompt-tokens {cfg.prompt_tokens}: must not be negative")
        if cfg.sample_break_mode not in (None, *BREAK_MODES):
            raise UserError(
                f"--sample-break-mode {cfg.sample_break_mode}: must be {' or '.join(BREAK_MODES)}"
            )
        self._words: WordCounter | None = None

    @property
    def tokens_per_sample(self) -> int:
        """The maximum number of tokens of a story, with its EOS token."""
        return int(self.option("tokens_per_sample"))

    @property
    def sample_break_mode(self) -> str:
        """What becomes of long texts: ``eos``, ``split`` or ``none``."""
        return str(self.option("sample_break_mode"))

    @property
    def needed_positions(self) -> int:
        """The number of positions that a new model gets."""
        return self.tokens_per_sample

    def max_positions(self) -> int:
        """Return the maximum length of a row in training."""
        return self.tokens_per_sample

    def load_dataset(self, split: str, combine: bool = False, **kwargs: Any) -> None:
        """Load a split of every data folder that has it."""
        tokens = self.load_lines(split, combine)
        self._words = self._words or WordCounter(self.dictionary)
        dataset: StoryDataset
        make: Any = StoryDataset
        if self.sample_break_mode != "eos":
            make = functools.partial(BlockDataset, across=self.sample_break_mode == "none")
        dataset = make(
            tokens,
            tokens.sizes,
            self.dictionary,
            self.tokens_per_sample,
            self.text_bytes(split),
            shuffle=split == "train",
            pack=self.cfg.pack,
            words=self._words,
        )
        dataset.report(split)
        self.datasets[split] = dataset

    def build_dataset_for_inference(
        self,
        src_tokens: list[Tensor],
        src_lengths: Sequence[int] | None,
        constraints: Any = None,
        **unused: Any,
    ) -> PromptDataset:
        """Make a dataset of prompts from encoded lines (for ``fairseq-interactive``)."""
        return PromptDataset(src_tokens, self.dictionary)

    def filter_indices_by_size(
        self,
        indices: Any,
        dataset: Any,
        max_positions: Any = None,
        ignore_invalid_inputs: bool = False,
    ) -> Any:
        """Return the indices of prompts that are not too long.

        Prompts that are too long are an error, unless ``ignore_invalid_inputs`` is True; then their
        number is logged.

        Raises:
            UserError: a prompt is too long.
        """
        if not isinstance(dataset, PromptDataset):
            return super().filter_indices_by_size(
                indices, dataset, max_positions, ignore_invalid_inputs
            )
        # the BOS token needs a position, and so does the first new token
        fits = dataset.sizes[indices] < max_positions
        if not fits.all() and not ignore_invalid_inputs:
            worst = indices[~fits][0]
            number, length = self.lines_before + worst + 1, dataset.sizes[worst] - 1
            raise UserError(
                f"prompt {number} has {length} tokens, but the model has room for "
                f"{max_positions - 2}: shorten it, or give --skip-invalid-size-inputs-valid-test"
            )
        if not fits.all():
            logger.warning("%d prompts are too long and left out", int((~fits).sum()))
        return indices[fits]

    def inference_step(
        self,
        generator: Any,
        models: list[nn.Module],
        sample: Batch,
        prefix_tokens: Tensor | None = None,
        constraints: Any = None,
    ) -> list[Any]:
        """Continue the prompts of a batch; a batch of stories is cut into prompts first."""
        if sample.get("target") is not None and isinstance(generator, PrefixGenerator):
            prefix_tokens = self._cut_prompts(sample, prefix_tokens)
        return super().inference_step(generator, models, sample, prefix_tokens, constraints)

    def _cut_prompts(self, sample: Batch, prefix_tokens: Tensor | None) -> Tensor | None:
        """Cut prompts and references from stories, in place, so that both are printed correctly."""
        net_input, target, pad = sample["net_input"], sample["target"], self.dictionary.pad()
        assert target is not None
        if "packing" in net_input:
            raise UserError("--pack: cannot be used in generation; leave it out")
        if self.sample_break_mode != "eos":
            raise UserError(
                f"--sample-break-mode {self.sample_break_mode}: blocks from the middle of a text "
                "are no prompts; generate with --sample-break-mode eos"
            )
        count = min(self.cfg.prompt_tokens, target.size(1) - 1)
        real = target.ne(pad).sum(1)
        prompt = torch.clamp(real - 1, max=count)  # every reference has at least the EOS token
        place = torch.arange(count + 1, device=target.device)
        source = net_input["src_tokens"][:, : count + 1]
        net_input["src_tokens"] = source.masked_fill(place > prompt.unsqueeze(1), pad)
        net_input["src_lengths"] = prompt + 1  # with the BOS token
        rest = torch.arange(target.size(1), device=target.device) + prompt.unsqueeze(1)
        shifted = target.gather(1, rest.clamp(max=target.size(1) - 1))
        reference = shifted.masked_fill(rest >= real.unsqueeze(1), pad)
        sample["target"] = reference
        return None if prefix_tokens is None else reference[:, : prefix_tokens.size(1)]
