"""Generate replies to dialogs, with options for steering and re-ranking."""

import math
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, cast

import torch
from fairseq import utils
from fairseq.data import Dictionary
from torch import Tensor, nn

from ..data.corpus.vocabulary import token_bytes
from ..data.dialog.dataset import DialogDataset, DialogPrefixDataset
from ..data.dialog.line_format import MARKS, NUM_SEGMENTS
from ..errors import UserError
from ..generation.mmi import MMIReranker
from ..generation.options import check_decoding
from ..generation.prefix_generator import PrefixGenerator
from ..generation.processors import ContextNgramBlock, WordSteering, read_word_bag
from ..interfaces import Batch, DialogBatch, PrefixInput
from .dialog import DialogDataConfig, DialogTask
from .dialog_batches import (
    begin_replies,
    describe_prefixes,
    dialog_view,
    find_queries,
    split_prefixes,
    unpack_dialogs,
)
from .prefix_lm import ADAPTER_HELP, PrefixLMTask


@dataclass
class ReplyConfig(DialogDataConfig):
    """Options of the data, and options for generating replies."""

    block_context_ngram: int = field(
        default=0,
        metadata={
            "help": "generation: forbid n-grams of this size that occur in the context (0: off)"
        },
    )
    steer_words: Optional[str] = field(
        default=None,
        metadata={"help": "generation: file with the words of a topic, one word on each line"},
    )
    steer_weight: Optional[float] = field(
        default=None,
        metadata={
            "help": "generation: weight added to the logits of the words in --steer-words "
            "(default: 2)"
        },
    )
    mmi_path: Optional[str] = field(
        default=None,
        metadata={
            "help": "generation: checkpoint trained with --reverse, for re-ranking the replies"
        },
    )
    mmi_weight: Optional[float] = field(
        default=None,
        metadata={
            "help": "generation: W in (1 - W) log P(reply | context) + W log P(query | reply), "
            "0 to 1 (default: 0.5)"
        },
    )
    lora_adapter: Optional[str] = field(default=None, metadata={"help": ADAPTER_HELP})


class ReplyTask(DialogTask, PrefixLMTask):
    """A task of dialogs in which a prefix language model generates the responses."""

    cfg: ReplyConfig

    num_segments = NUM_SEGMENTS
    shares_positions = True
    positions_options = "--max-source-positions and --max-target-positions"

    def __init__(self, cfg: ReplyConfig, dictionary: Dictionary) -> None:
        super().__init__(cfg, dictionary)
        self._reranker: MMIReranker | None = None
        self._asked: DialogPrefixDataset | None = None  # current buffer of fairseq-interactive

    @property
    def needed_positions(self) -> int:
        """The number of positions that a new model gets."""
        # positions restart at 0 in each turn, but a single turn may fill the whole prefix
        return max(self.limits.max_source_positions, self.limits.max_target_positions)

    def max_positions(self) -> None:
        """Return None, because rows are cut and hence never too long."""

    @property
    def reads_both_ways(self) -> bool:
        """Whether decoding reads the prefix in both directions."""
        raise NotImplementedError

    # ------------------------------------------------------------------------- generation

    def build_dataset_for_inference(
        self,
        src_tokens: list[Tensor],
        src_lengths: Sequence[int] | None,
        constraints: Any = None,
        **unused: Any,
    ) -> DialogPrefixDataset:
        """Make a dataset of prefixes from encoded dialogs, without their ``</s>``."""
        prefixes = [tokens[:-1].numpy() for tokens in src_tokens]
        self._asked = DialogPrefixDataset(prefixes, self.dictionary, self.ctx, self.limits)
        return self._asked

    def build_generator(
        self,
        models: list[nn.Module],
        args: Any,
        extra_gen_cls_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Build the generator for prefixes, with processors and the re-ranker for replies.

        Special tokens are suppressed in replies.

        Raises:
            UserError: an option is out of range, or a file named by an option is unusable.
        """
        if getattr(args, "score_reference", False):
            return super().build_generator(models, args, **kwargs)
        extra = {"tokens_to_suppress": MARKS, **(extra_gen_cls_kwargs or {})}
        extra["processors"] = self.reply_processors()
        extra["max_new"] = self.limits.max_target_positions - 1
        if self.cfg.mmi_weight is not None and not self.cfg.mmi_path:
            raise UserError(
                f"--mmi-weight {self.cfg.mmi_weight}: needs a reverse model; give --mmi-path"
            )
        if self.cfg.mmi_path:
            self._reranker = MMIReranker(
                self.cfg.mmi_path,
                0.5 if self.cfg.mmi_weight is None else self.cfg.mmi_weight,
                self.cfg.data or "",
                None if getattr(args, "unnormalized", False) else getattr(args, "lenpen", 1.0),
            )
            self._reranker.model.to(next(models[0].parameters()).device)
        return super().build_generator(models, args, extra_gen_cls_kwargs=extra, **kwargs)

    def reply_processors(self) -> list[Any]:
        """Return the processors that the task's options select.

        Raises:
            UserError: an option is out of range, or the file of ``--steer-words`` is unusable.
        """
        names = ("block_context_ngram", "steer_words", "steer_weight")
        check_decoding({name: getattr(self.cfg, name) for name in names})
        processors: list[Any] = []
        if self.cfg.block_context_ngram:
            processors.append(ContextNgramBlock(self.cfg.block_context_ngram))
        weight = self.cfg.steer_weight
        if self.cfg.steer_words:
            words = read_word_bag(
                self.cfg.steer_words,
                lambda word: self.encode_pieces(self.encode_inside(word))[:-1].tolist(),
                self.dictionary.unk(),
            )
            processors.append(WordSteering(words, 2.0 if weight is None else weight))
        return processors

    def inference_step(
        self,
        generator: Any,
        models: list[nn.Module],
        sample: Any,
        prefix_tokens: Tensor | None = None,
        constraints: Any = None,
    ) -> list[Any]:
        """Generate replies to the prefixes of a batch; unpack whole dialogs first, in place."""
        if not isinstance(generator, PrefixGenerator):
            return super().inference_step(generator, models, sample, prefix_tokens, constraints)
        if "sides" in sample["net_input"]:
            sample.update(unpack_dialogs(sample, self.dictionary.pad()))
            if prefix_tokens is not None:
                prefix_tokens = sample["target"][:, : prefix_tokens.size(1)]
        elif "segments" not in sample["net_input"]:
            assert self._asked is not None
            sample["net_input"] = describe_prefixes(sample["net_input"], self._asked)
        sample["net_input"] = begin_replies(sample["net_input"], self.reads_both_ways)
        hypos = super().inference_step(generator, models, sample, prefix_tokens, constraints)
        return hypos if self._reranker is None else self._rerank(self._reranker, sample, hypos)

    def _rerank(self, reranker: MMIReranker, sample: Any, hypos: list[Any]) -> list[Any]:
        """Re-rank replies, and print both parts of their scores in bits, as fairseq does."""
        queries = find_queries(sample["net_input"], self.dictionary, self.sep)
        hypos = reranker.rerank(queries, hypos)
        if "id" in sample:
            numbers = sample["id"].tolist()
        else:  # fairseq-interactive drops the ids, and numbers the lines of all its buffers
            assert self._asked is not None
            numbers = [self.lines_before + i for i in self._asked.collated]
        for number, group in zip(numbers, hypos, strict=True):
            for rank, hypo in enumerate(group, 1):
                forward, reverse = _bits(hypo["forward_score"]), _bits(hypo["reverse_score"])
                # part of the command's output, like fairseq's own H- and P- lines
                print(f"M-{number}\t{rank}\t{forward:.4f}\t{reverse:.4f}")
        return hypos

    def reply_input(self, turns: list[str], device: Any) -> tuple[PrefixInput, int, Sequence[int]]:
        """Return the encoder input for a dialog, the EOS token, and tokens forbidden in replies."""
        tokens = self.encode_turns(turns)
        dataset = self.build_dataset_for_inference([tokens], [len(tokens)])
        collated = dataset.collater([dataset[0]])["net_input"]
        net_input: Any = {name: value.to(device) for name, value in collated.items()}
        eos = self.dictionary.eos()  # in GPT-2's dictionaries, it is also the BOS token
        marks = {self.ctx, self.sep, self.dictionary.bos(), self.dictionary.pad()} - {eos}
        return begin_replies(net_input, self.reads_both_ways), eos, sorted(marks)

    # ---------------------------------------------------- pairs of prefixes and responses

    def build_pairs(self, prefixes: list[Tensor], responses: list[Tensor]) -> DialogDataset:
        """Make a dataset of prefixes (with a final ``<SEP>``) and responses (with ``</s>``)."""
        lines = [torch.cat(pair) for pair in zip(prefixes, responses)]
        return DialogDataset(
            lines,
            self.dictionary,
            self.ctx,
            self.sep,
            self.limits,
            token_bytes(self.dictionary),
            shuffle=False,
        )

    def response_view(self, sample: DialogBatch) -> DialogBatch:
        """Return a view of a packed batch in which only the responses are predicted."""
        pad = self.dictionary.pad()
        return dialog_view(sample, self.reads_both_ways, response_only=True, pad=pad)

    @torch.no_grad()
    def write_replies(self, model: nn.Module, sample: Batch, max_len: int) -> DialogBatch:
        """Return a batch of the same prefixes with greedy replies of the model.

        Args:
            model: model of the task. It generates in evaluation mode; its mode is restored.
            sample: packed dialogs, which are not changed.
            max_len: maximum number of tokens in a reply, without the EOS token.
        """
        training = model.training
        prompts = unpack_dialogs(cast(DialogBatch, sample), self.dictionary.pad())
        prefixes = split_prefixes(prompts["net_input"])
        max_len = min(max_len, self.limits.max_target_positions - 1)
        generator = self.build_generator([model], Namespace(beam=1, max_len_b=max_len))
        hypos = self.inference_step(generator, [model], prompts)
        model.train(training)
        dataset = self.build_pairs(prefixes, [h[0]["tokens"].cpu() for h in hypos])
        batch = self.response_view(dataset.collater([dataset[i] for i in range(len(dataset))]))
        is_cuda = prompts["net_input"]["src_lengths"].is_cuda
        return utils.move_to_cuda(batch) if is_cuda else batch


def _bits(nats: float) -> float:
    return nats / math.log(2)
