"""fairseq's generator over prefixes: options checked, positions respected."""

import torch
from fairseq import search
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator

from ..errors import UserError


def check_generation_options(args):
    """Refuse generation options that contradict each other.

    fairseq checks some of them with bare assertions and takes others silently.

    Raises:
        UserError: names the option, the value, the rule and the remedy.
    """

    def get(name, default):
        value = getattr(args, name, None)
        return default if value is None else value

    sampling = get("sampling", False)
    topk, topp = get("sampling_topk", -1), get("sampling_topp", -1.0)
    beam, nbest = get("beam", 5), get("nbest", 1)
    groups, diversity_rate = get("diverse_beam_groups", -1), get("diversity_rate", -1.0)
    rules = [
        (get("temperature", 1.0) > 0, f"--temperature {get('temperature', 1.0)}: must be > 0"),
        (sampling or topk < 0, f"--sampling-topk {topk} needs --sampling"),
        (sampling or topp < 0, f"--sampling-topp {topp} needs --sampling"),
        (topk == -1 or topk >= 1, f"--sampling-topk {topk}: give at least 1, or -1 for no limit"),
        (
            topp == -1.0 or 0 < topp <= 1,
            f"--sampling-topp {topp}: a probability above 0 and at most 1, or -1 for no limit",
        ),
        (topk < 0 or topp < 0, "--sampling-topk and --sampling-topp: give one of them"),
        (
            sampling + (groups > 0) + (diversity_rate > 0) <= 1,
            "--sampling, --diverse-beam-groups and --diversity-rate: give one of them",
        ),
        (
            groups <= 0 or beam % groups == 0,
            f"--beam {beam} must be a multiple of --diverse-beam-groups {groups}",
        ),
        (beam >= 1, f"--beam {beam}: must be at least 1"),
        (nbest <= beam, f"--nbest {nbest} is more than --beam {beam}: raise --beam"),
        (get("min_len", 1) >= 0, f"--min-len {get('min_len', 1)}: must not be negative"),
        (
            get("no_repeat_ngram_size", 0) >= 0,
            f"--no-repeat-ngram-size {get('no_repeat_ngram_size', 0)}: must not be negative",
        ),
        (
            get("max_len_b", 200) >= get("min_len", 1) or get("max_len_a", 0) > 0,
            f"--max-len-b {get('max_len_b', 200)} is less than --min-len {get('min_len', 1)}",
        ),
        (
            get("max_len_a", 0) >= 0,
            f"--max-len-a {get('max_len_a', 0)}: tokens for each of the prompt, not negative",
        ),
        (get("constraints", None) is None, "--constraints: not supported by this task"),
        (not get("print_alignment", False), "--print-alignment: this model aligns nothing"),
    ]
    broken = [message for holds, message in rules if not holds]
    if broken:
        raise UserError("; ".join(broken))


class _PrefixEnsemble(EnsembleModel):
    """Ends a hypothesis where its own prefix leaves no more room, and runs processors."""

    def __init__(self, models, eos, processors):
        super().__init__(models)
        self.eos = eos
        self.processors = processors
        self.max_len_a, self.max_len_b = 0.0, 0
        self.max_new = None  # the task's own limit
        self.rooms = None  # int64 [B], of the prefixes still in the batch

    def room(self, positions, lengths):
        """Return how many tokens may follow each prefix, without the end mark, int64 [B].

        Args:
            positions: of the first token after each prefix, int64 [B].
            lengths: of the prefixes, int64 [B].
        """
        # the end needs no position: it is never read
        room = self.max_decoder_positions() - positions
        if self.max_new is not None:
            room = room.clamp(max=self.max_new)
        if self.max_len_a == 0:
            return room  # --max-len-b is the same for all, and fairseq sees to it
        # fairseq takes the longest prefix of the batch for every row's
        return room.minimum((lengths.double() * self.max_len_a + self.max_len_b).long())

    def forward_decoder(self, tokens, encoder_outs, incremental_states, temperature=1.0):
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


class _Sampling(search.Sampling):
    """fairseq's sampling, also where hardly any probability is left to draw from.

    At the greatest length only the end may follow, and before ``--min-len`` it may not. At a
    low temperature the probabilities of all that is left may underflow to zero, and there is
    nothing to draw from. Other rows are drawn exactly as by fairseq.
    """

    LEAST = -60.0  # log of the probability left: e**-60 is far from where fp32 ends, e**-87

    def step(self, step, lprobs, scores, prev_output_tokens=None, original_batch_idxs=None):
        left = lprobs.logsumexp(2, keepdim=True)  # [B, K, 1]
        shift = left.masked_fill((left > self.LEAST) | left.isinf(), 0.0)
        drawn, tokens, beams = super().step(step, lprobs - shift, scores)
        return drawn + shift.squeeze(2).gather(1, beams), tokens, beams


class PrefixGenerator(SequenceGenerator):
    """Beam search and sampling that continue prefixes of different lengths in one batch.

    ``sample["net_input"]`` holds the prefixes ``src_tokens`` [B, S], padded at the right,
    ``src_lengths`` [B] and what the encoder takes besides. The temperature divides the
    logits: below 1 the distribution gets sharper. What is generated for a prefix does not
    depend on the others in its batch.

    Args:
        models, tgt_dict: as fairseq's generator.
        processors: each is called with the log-probabilities [R, V], the tokens [R, 1 + t] and
            the ``PrefixEncoderOut``, and returns the former.
        max_new: most tokens that follow a prefix, without the end mark; None for as many as the
            model has positions for.
        kwargs: fairseq's options.
    """

    def __init__(self, models, tgt_dict, processors=(), max_new=None, **kwargs):
        eos = kwargs.get("eos")
        ensemble = _PrefixEnsemble(models, tgt_dict.eos() if eos is None else eos, processors)
        strategy = kwargs.get("search_strategy")
        if type(strategy) is search.Sampling:
            # the best k of fewer than k are all
            topk = min(strategy.sampling_topk, len(tgt_dict))
            kwargs["search_strategy"] = _Sampling(tgt_dict, topk, strategy.sampling_topp)
        super().__init__(ensemble, tgt_dict, **kwargs)
        ensemble.max_len_a, ensemble.max_len_b = self.max_len_a, self.max_len_b
        ensemble.max_new = max_new
        self.symbols_to_strip_from_output = self.symbols_to_strip_from_output | {tgt_dict.bos()}

    def _generate(self, sample, prefix_tokens=None, constraints=None, bos_token=None):
        lengths = sample["net_input"]["src_lengths"]
        positions = sample["net_input"].get("next_positions")
        if positions is None:
            positions = lengths
        room = self.model.room(positions, lengths)
        least = int(room.min())
        limit = self.model.max_new
        if limit is not None and limit < self.min_len:
            raise UserError(
                f"--min-len {self.min_len}: a reply has at most {limit} tokens besides its end; "
                "--max-target-positions says so"
            )
        if least < self.min_len:
            raise UserError(
                f"a prompt of {int(lengths[room.argmin()])} tokens leaves {max(least, 0)} for its "
                f"continuation, by the model's {self.model.max_decoder_positions()} positions, "
                f"--max-len-a and --max-len-b; --min-len asks for {self.min_len}: shorten the "
                "prompt, or lower --min-len"
            )
        if prefix_tokens is not None:
            # nothing is forced where there is no more room
            place = torch.arange(prefix_tokens.size(1), device=prefix_tokens.device)
            prefix_tokens = prefix_tokens.masked_fill(place >= room.unsqueeze(1), self.pad)
        if isinstance(self.search, search.DiverseBeamSearch):
            # it takes the samples' numbers in the data for numbers of rows in the batch
            sample = {key: value for key, value in sample.items() if key != "id"}
        return super()._generate(sample, prefix_tokens, constraints, bos_token)

    def is_finished(self, step, unfin_idx, max_len, finalized_sent_len, beam_size):
        # fewer hypotheses than beams may have come this far, where --prefix-size forced one
        return super().is_finished(
            step, unfin_idx, max_len, finalized_sent_len, beam_size
        ) or step >= int(self.model.rooms[unfin_idx])
