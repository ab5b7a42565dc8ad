"""``dialog_lm``: learn to answer, as a causal model, as UniLM's seq2seq model, or as both."""

import logging
import math
import random
from argparse import Namespace
from dataclasses import dataclass, field
from typing import Optional

import torch
from fairseq import utils
from fairseq.logging import metrics
from fairseq.tasks import register_task
from omegaconf import II

from fairtale.data.corpus.vocabulary import token_bytes
from fairtale.data.dialog.dataset import DialogDataset, DialogPrefixDataset
from fairtale.data.dialog.line_format import MARKS, NUM_SEGMENTS, QUERY, RESPONSE
from fairtale.errors import UserError
from fairtale.generation.mmi import MMIReranker
from fairtale.generation.prefix_generator import PrefixGenerator
from fairtale.generation.processors import ContextNgramBlock, WordSteering, read_word_bag
from fairtale.tasks.dialog import TURN_SEPARATOR, DialogDataConfig, DialogTask

logger = logging.getLogger(__name__)

LN2 = math.log(2)


@dataclass
class DialogLMConfig(DialogDataConfig):
    seq2seq_prob: Optional[float] = field(
        default=None,
        metadata={
            "help": "share of updates that read the prefix in both directions and predict the "
            "response only; the others are causal and predict every token "
            "(default 0.25; gpt: 0)"
        },
    )
    reverse: bool = field(
        default=False,
        metadata={"help": "learn response -> query, for re-ranking by mutual information"},
    )
    sample_prompts: Optional[str] = field(
        default=None,
        metadata={
            "help": "at each validation answer these queries, separated by '|' (turns of one "
            "dialog by tabs), and write the replies to the log and to TensorBoard"
        },
    )
    sample_length: int = field(default=40, metadata={"help": "most tokens of such a reply"})
    sample_topk: int = field(default=10, metadata={"help": "top-k of such a reply"})
    sample_temperature: float = field(
        default=1.0, metadata={"help": "temperature of such a reply; divides the logits"}
    )
    block_context_ngram: int = field(
        default=0,
        metadata={"help": "generation: no n-gram of the context is repeated in a reply (0: off)"},
    )
    steer_words: Optional[str] = field(
        default=None,
        metadata={"help": "generation: file with the words of a topic, one a line"},
    )
    steer_weight: Optional[float] = field(
        default=None,
        metadata={"help": "added to the logits of the words in --steer-words (default 2)"},
    )
    mmi_path: Optional[str] = field(
        default=None,
        metadata={"help": "generation: checkpoint trained with --reverse that re-ranks replies"},
    )
    mmi_weight: Optional[float] = field(
        default=None,
        metadata={
            "help": "W in (1 - W) log P(reply | context) + W log P(query | reply), 0 to 1 "
            "(default 0.5)"
        },
    )
    seed: int = II("common.seed")
    tensorboard_logdir: Optional[str] = II("common.tensorboard_logdir")


@register_task("dialog_lm", dataclass=DialogLMConfig)
class DialogLMTask(DialogTask):
    """Replies to dialogs, read as ``context <CTX> query <SEP> response``.

    Raises:
        UserError: an option out of its range.
    """

    remembered = {**DialogTask.remembered, "seq2seq_prob": None, "reverse": False}
    num_segments = NUM_SEGMENTS

    def __init__(self, cfg: DialogLMConfig, dictionary):
        super().__init__(cfg, dictionary)
        if cfg.seq2seq_prob is not None and not 0 <= cfg.seq2seq_prob <= 1:
            raise UserError(f"--seq2seq-prob {cfg.seq2seq_prob}: a probability, 0 to 1")
        self._options["reverse"] = cfg.reverse or None
        self._reranker = None
        self._asked = None  # what fairseq-interactive is answering

    # --------------------------------------------------------------------------- the model

    @property
    def is_reverse(self) -> bool:
        return self.option("reverse")

    def build_model(self, cfg, from_checkpoint=False):
        """Build the model and settle the share of seq2seq updates."""
        model = super().build_model(cfg, from_checkpoint)
        both_ways = getattr(model, "bidirectional_prefix", False)
        probability = self.option("seq2seq_prob")
        if probability is None:
            probability = 0.25 if both_ways else 0.0
        if probability > 0 and not both_ways:
            raise UserError(
                f"--seq2seq-prob {probability}: {type(model).__name__} reads the prefix causally; "
                "use --arch unilm_seq2seq"
            )
        self._options["seq2seq_prob"] = probability
        return model

    # ------------------------------------------------------------------------------- data

    def load_dataset(self, split, combine=False, **kwargs):
        """Load a split of every data folder that has it."""
        self.datasets[split] = self.load_dialogs(split, combine, self.is_reverse)

    def build_dataset_for_inference(self, src_tokens, src_lengths, constraints=None, **kwargs):
        """Make prefixes of encoded dialogs; their ``</s>`` is left out."""
        prefixes = [tokens[:-1].numpy() for tokens in src_tokens]
        self._asked = DialogPrefixDataset(prefixes, self.dictionary, self.ctx, self.limits)
        return self._asked

    # --------------------------------------------------------------------------- training

    def is_seq2seq_update(self, update_num: int) -> bool:
        """Draw the kind of an update: the same on every worker, and again after a resume."""
        draw = random.Random(f"{self.cfg.seed} {update_num}").random()
        return draw < self.option("seq2seq_prob")

    def _as(self, sample, seq2seq: bool, response_only: bool):
        """Return a view of a batch: how its prefixes are read, and what counts.

        What does not count is padding in the targets, which every criterion leaves out: with
        a prefix read in both directions, a target in it would be no secret.
        """
        if "response_mask" not in sample:
            return sample  # an empty batch of a worker that has no more data
        sample = {**sample, "net_input": {**sample["net_input"], "seq2seq": seq2seq}}
        if response_only:
            sample["target"] = sample["target"].masked_fill(
                ~sample["response_mask"], self.dictionary.pad()
            )
            sample["ntokens"] = sample["response_ntokens"]
            sample["nbytes"] = sample["response_nbytes"]
        return sample

    def train_step(self, sample, model, criterion, optimizer, update_num, ignore_grad=False):
        seq2seq = self.is_seq2seq_update(update_num)
        sample = self._as(sample, seq2seq, response_only=seq2seq or self.is_reverse)
        sample["update_num"] = update_num  # criterions draw by it, as this task does
        return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)

    @torch.no_grad()
    def write_replies(self, model, sample, max_len: int):
        """Return a batch of the same prefixes with greedy replies of the model itself."""
        training = model.training
        sample = {**sample}
        self._cut_prefixes(sample)
        lengths = sample["net_input"]["src_lengths"]
        max_len = min(max_len, self.limits.max_target_positions - 1)
        generator = self.build_generator([model], Namespace(beam=1, max_len_b=max_len))
        hypos = self.inference_step(generator, [model], sample)
        model.train(training)
        tokens = sample["net_input"]["src_tokens"].cpu()
        prefixes = [row[1:n] for row, n in zip(tokens, lengths.tolist())]
        dataset = self.build_pairs(prefixes, [h[0]["tokens"].cpu() for h in hypos])
        batch = self.response_view(dataset.collater([dataset[i] for i in range(len(dataset))]))
        return utils.move_to_cuda(batch) if lengths.is_cuda else batch

    def valid_step(self, sample, model, criterion):
        """Validate on the response: as the model will decode, and in the other way too."""
        both_ways = self.option("seq2seq_prob") > 0
        main = self._as(sample, both_ways, response_only=True)
        loss, sample_size, logging_output = super().valid_step(main, model, criterion)
        ways = [("seq2seq_nll_loss", True), ("causal_nll_loss", False)] if both_ways else []
        for name, seq2seq in ways:
            if seq2seq == both_ways:
                log = logging_output
            else:
                other = self._as(sample, seq2seq, response_only=True)
                log = super().valid_step(other, model, criterion)[2]
            logging_output[name] = log.get("nll_loss", log["loss"])
        return loss, sample_size, logging_output

    def reduce_metrics(self, logging_outputs, criterion):
        super().reduce_metrics(logging_outputs, criterion)
        tokens = sum(float(log.get("ntokens", 0)) for log in logging_outputs)
        for name in ("seq2seq_nll_loss", "causal_nll_loss"):
            if any(name in log for log in logging_outputs):
                total = sum(float(log.get(name, 0)) for log in logging_outputs)
                bits = total / tokens / LN2
                metrics.log_scalar(name, bits, tokens, round=3)

    # ------------------------------------------------------------------------- generation

    def build_generator(self, models, args, extra_gen_cls_kwargs=None, **kwargs):
        """As the base task's; a reply holds no marks, and may be steered and re-ranked.

        Raises:
            UserError: an option out of its range, or a file that does not serve.
        """
        if getattr(args, "score_reference", False):
            return super().build_generator(models, args, **kwargs)
        extra = {"tokens_to_suppress": MARKS, **(extra_gen_cls_kwargs or {})}
        extra["processors"] = self.reply_processors()
        extra["max_new"] = self.limits.max_target_positions - 1
        if self.cfg.mmi_weight is not None and not self.cfg.mmi_path:
            raise UserError(
                f"--mmi-weight {self.cfg.mmi_weight}: needs a reverse model; name it by --mmi-path"
            )
        if self.cfg.mmi_path:
            self._reranker = MMIReranker(
                self.cfg.mmi_path,
                0.5 if self.cfg.mmi_weight is None else self.cfg.mmi_weight,
                self.cfg.data,
                None if getattr(args, "unnormalized", False) else getattr(args, "lenpen", 1.0),
            )
            self._reranker.model.to(next(models[0].parameters()).device)
        return super().build_generator(models, args, extra_gen_cls_kwargs=extra, **kwargs)

    def reply_processors(self):
        processors = []
        if self.cfg.block_context_ngram < 0:
            raise UserError(
                f"--block-context-ngram {self.cfg.block_context_ngram}: must not be negative"
            )
        if self.cfg.block_context_ngram:
            processors.append(ContextNgramBlock(self.cfg.block_context_ngram))
        weight = self.cfg.steer_weight
        if weight is not None and not (math.isfinite(weight) and self.cfg.steer_words):
            raise UserError(
                f"--steer-weight {weight}: a finite number, together with --steer-words FILE"
            )
        if self.cfg.steer_words:
            words = read_word_bag(
                self.cfg.steer_words,
                lambda word: self.encode_pieces(self.encode_text(word))[:-1].tolist(),
                self.dictionary.unk(),
            )
            processors.append(WordSteering(words, 2.0 if weight is None else weight))
        return processors

    def build_pairs(self, prefixes, responses):
        """Make a dataset of prefixes (ending with ``<SEP>``) and responses (with ``</s>``)."""
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

    def response_view(self, sample):
        """Return a batch as it is decoded: only its responses count."""
        return self._as(sample, self.option("seq2seq_prob") > 0, response_only=True)

    def inference_step(self, generator, models, sample, prefix_tokens=None, constraints=None):
        """Answer the prefixes of a batch; a batch of whole dialogs is cut first."""
        if isinstance(generator, PrefixGenerator):
            if "sides" in sample["net_input"]:
                self._cut_prefixes(sample)
                if prefix_tokens is not None:
                    prefix_tokens = sample["target"][:, : prefix_tokens.size(1)]
            elif "segments" not in sample["net_input"]:  # fairseq-interactive drops them
                self._describe(sample)
            self._prepare_reply(sample["net_input"])
        hypos = super().inference_step(generator, models, sample, prefix_tokens, constraints)
        if self._reranker is not None and isinstance(generator, PrefixGenerator):
            hypos = self._rerank(sample, hypos)
        return hypos

    def _rerank(self, sample, hypos):
        """Re-rank replies and print both parts of their scores, in bits as fairseq does."""
        net_input = sample["net_input"]
        queries = []
        for row, segments in zip(net_input["src_tokens"], net_input["segments"]):
            turn = row[segments == QUERY]
            queries.append(turn[(turn != self.sep) & (turn != self.dictionary.bos())])
        hypos = self._reranker.rerank(queries, hypos)
        if "id" in sample:
            numbers = sample["id"].tolist()
        else:  # fairseq-interactive drops it, and counts the lines of all its buffers
            numbers = [self.lines_before + i for i in self._asked.collated]
        for number, group in zip(numbers, hypos, strict=True):
            for rank, hypo in enumerate(group, 1):
                forward, reverse = hypo["forward_score"] / LN2, hypo["reverse_score"] / LN2
                # part of the command's output, as fairseq's own H- and P- lines
                print(f"M-{number}\t{rank}\t{forward:.4f}\t{reverse:.4f}")
        return hypos

    def reply_input(self, turns: list[str], device):
        """Return what the encoder reads for one dialog, the end mark, and what no reply holds."""
        tokens = self.encode_prompt(TURN_SEPARATOR.join(turns))
        dataset = self.build_dataset_for_inference([tokens], [len(tokens)])
        net_input = dataset.collater([dataset[0]])["net_input"]
        net_input = {name: value.to(device) for name, value in net_input.items()}
        self._prepare_reply(net_input)
        marks = (self.ctx, self.sep, self.dictionary.bos(), self.dictionary.pad())
        return net_input, self.dictionary.eos(), marks

    def _prepare_reply(self, net_input):
        """Say where replies begin, and how the prefix is read."""
        rows = net_input["src_lengths"]
        net_input["next_positions"] = torch.zeros_like(rows)
        net_input["next_segments"] = torch.full_like(rows, RESPONSE)
        net_input["bidirectional"] = self.option("seq2seq_prob") > 0

    def _describe(self, sample):
        """Add segments and positions to padded prefixes."""
        net_input = sample["net_input"]
        tokens, lengths = net_input["src_tokens"].cpu(), net_input["src_lengths"].tolist()
        dataset = DialogPrefixDataset(
            [row[1:n].numpy() for row, n in zip(tokens, lengths)],
            self.dictionary,
            self.ctx,
            self.limits,
        )
        described = dataset.collater([dataset[i] for i in range(len(dataset))])["net_input"]
        for name in ("positions", "segments"):
            net_input[name] = described[name].to(net_input["src_tokens"].device)

    def _cut_prefixes(self, sample):
        """Unpack dialogs into padded prefixes and references, in place."""
        net_input, pad = sample["net_input"], self.dictionary.pad()
        sides = net_input["sides"]
        prefix, response = sides["prefix_lengths"], sides["response_lengths"]
        total = prefix + response
        starts = (total.cumsum(0) - total).unsqueeze(1)

        def rows(packed, first, lengths, fill):
            place = torch.arange(int(lengths.max()), device=lengths.device)
            index = (first + place).clamp(max=packed.size(1) - 1)
            return packed[0][index].masked_fill(place >= lengths.unsqueeze(1), fill)

        # a response of n inputs has n + 1 targets; the first is predicted by <SEP>
        sample["target"] = rows(
            sample["target"], starts + prefix.unsqueeze(1) - 1, response + 1, pad
        )
        sample["net_input"] = {
            "src_tokens": rows(net_input["src_tokens"], starts, prefix, pad),
            "src_lengths": prefix,
            "positions": rows(net_input["positions"], starts, prefix, 0),
            "segments": rows(net_input["segments"], starts, prefix, 0),
        }
