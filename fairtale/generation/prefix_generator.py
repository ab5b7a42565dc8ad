"""Adapt fairseq's generator to prefixes, with checked options and limits for each prefix."""

from collections.abc import Sequence
from typing import Any

import torch
from fairseq import search
from fairseq.data import Dictionary
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator
from torch import Tensor

from ..errors import UserError
from ..modules.prefix_encoder_decoder import PrefixEncoderOut
from .options import DEFAULTS, check_decoding
from .processors import Processor


def check_generation_options(args: Any) -> None:
    """Refuse generation options that contradict each other.

    fairseq checks some of them with bare assertions and silently accepts others.

    Args:
        args: fairseq's generation options; options that are missing or None have their defaults.

    Raises:
        UserError: a rule is broken; the message contains the options, their values, the rule and
            the remedy.
    """
    check_decoding({name: getattr(args, name, None) for name in DEFAULTS})


class _PrefixEnsemble(EnsembleModel):
    """Ensemble that limits the length of each hypothesis according to its own prefix.

    Args:
        models: prefix language models.
        eos: the EOS token.
        processors: functions that change the log-probabilities of the next tokens, in this order.
    """

    rooms: Tensor  # int64 [B]: limits of the prefixes that are still in the batch; set by each step

    def __init__(self, models: Any, eos: int, processors: Sequence[Processor]) -> None:
        super().__init__(models)
        self.eos = eos
        self.processors = processors
        self.max_len_a, self.max_len_b = 0.0, 0
        self.max_new: int | None = None  # the task's own limit

    def room(self, positions: Tensor, lengths: Tensor) -> Tensor:
        """Return how many tokens may follow each prefix, without the EOS token, int64 [B].

        Args:
            positions: position of the first token after each prefix, int64 [B].
            lengths: length of each prefix, int64 [B].
        """
        # the EOS token needs no position, because it is never an input
        room: Tensor = self.max_decoder_positions() - positions
        if self.max_new is not None:
            room = room.clamp(max=self.max_new)
        if self.max_len_a == 0:
            return room  # --max-len-b is the same for all prefixes, so fairseq can apply it
        # fairseq would use the length of the longest prefix in the batch for every row
        return room.minimum((lengths.double() * self.max_len_a + self.max_len_b).long())

    def forward_decoder(
        self,
        tokens: Tensor,
        encoder_outs: list[PrefixEncoderOut],
        incremental_states: list[dict[str, Any]],
        temperature: float = 1.0,
    ) -> tuple[Tensor, Any]:
        lprobs, attn = super().forward_decoder(
            tokens, encoder_outs, incremental_states, temperature
        )
        for process in self.processors:
            lprobs = process(lprobs, tokens, encoder_outs[0])
        out = encoder_outs[0]
        self.rooms = self.room(out.next_positions, out.lengths)
        full = tokens.size(1) - 1 >= out.per_row(self.rooms)
        eos = lprobs[:, self.eos].clone()
        lprobs.masked_fill_(full.unsqueeze(1), -torch.inf)
        lprobs[:, self.eos] = eos
        return lprobs, attn


class PrefixGenerator(SequenceGenerator):
    """Beam search and sampling that continue prefixes of different lengths in one batch.

    ``sample["net_input"]`` holds the prefixes ``src_tokens`` [B, S], padded at the right, their
    ``src_lengths`` [B] and the other inputs of the encoder. The temperature divides the logits, so
    the distribution is sharper below 1. The output for a prefix does not depend on the other
    prefixes in its batch.

    Args:
        models: an ensemble of prefix language models.
        tgt_dict: fairseq's dictionary.
        processors: functions that change the log-probabilities of the next tokens, in this order.
        max_new: maximum number of tokens after a prefix, without the EOS token; None for the limit
            that the model's positions set.
        kwargs: fairseq's options.
    """

    model: _PrefixEnsemble

    def __init__(
        self,
        models: Sequence[Any],
        tgt_dict: Dictionary,
        processors: Sequence[Processor] = (),
        max_new: int | None = None,
        **kwargs: Any,
    ) -> None:
        eos = kwargs.get("eos")
        ensemble = _PrefixEnsemble(models, tgt_dict.eos() if eos is None else eos, processors)
        super().__init__(ensemble, tgt_dict, **kwargs)
        ensemble.max_len_a, ensemble.max_len_b = self.max_len_a, self.max_len_b
        ensemble.max_new = max_new
        self.symbols_to_strip_from_output: set[int] = {
            *self.symbols_to_strip_from_output,
            tgt_dict.bos(),
        }

    def _generate(
        self,
        sample: dict[str, Any],
        prefix_tokens: Tensor | None = None,
        constraints: Tensor | None = None,
        bos_token: int | None = None,
    ) -> Any:
        lengths = sample["net_input"]["src_lengths"]
        positions = sample["net_input"].get("next_positions")
        if positions is None:
            positions = lengths
        room = self.model.room(positions, lengths)
        least = int(room.min())
        limit = self.model.max_new
        if limit is not None and limit < self.min_len:
            raise UserError(
                f"--min-len {self.min_len}: a reply has at most {limit} tokens without its EOS "
                "token, which is set by --max-target-positions"
            )
        if least < self.min_len:
            raise UserError(
                f"a prompt of {int(lengths[room.argmin()])} tokens leaves room for "
                f"{max(least, 0)} new tokens, given the model's "
                f"{self.model.max_decoder_positions()} positions, --max-len-a and --max-len-b; "
                f"--min-len requires {self.min_len}: shorten the prompt, or lower --min-len"
            )
        if prefix_tokens is not None:
            # do not force tokens beyond the limit of a row
            place = torch.arange(prefix_tokens.size(1), device=prefix_tokens.device)
            prefix_tokens = prefix_tokens.masked_fill(place >= room.unsqueeze(1), self.pad)
        if isinstance(self.search, search.DiverseBeamSearch):
            # this search would use the sample ids of the data set as row numbers of the batch
            sample = {key: value for key, value in sample.items() if key != "id"}
        return super()._generate(sample, prefix_tokens, constraints, bos_token)

    def is_finished(
        self, step: int, unfin_idx: int, max_len: int, finalized_sent_len: int, beam_size: int
    ) -> bool:
        """Return whether a sentence is finished; also at the limit of its prefix."""
        # a row with forced tokens (--prefix-size) may end with fewer hypotheses than beams
        return super().is_finished(
            step, unfin_idx, max_len, finalized_sent_len, beam_size
        ) or step >= int(self.model.rooms[unfin_idx])
