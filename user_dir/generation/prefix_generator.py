"""fairseq's generator over prefixes: options checked, positions respected."""

import torch
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
    rules = [
        (get("temperature", 1.0) > 0, f"--temperature {get('temperature', 1.0)}: must be > 0"),
        (sampling or topk < 0, f"--sampling-topk {topk} needs --sampling"),
        (sampling or topp < 0, f"--sampling-topp {topp} needs --sampling"),
        (topk != 0, "--sampling-topk 0 samples from nothing: give at least 1"),
        (topp <= 1.0, f"--sampling-topp {topp}: a probability, at most 1"),
        (topk < 0 or topp < 0, "--sampling-topk and --sampling-topp: give one of them"),
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
        (get("constraints", None) is None, "--constraints: not supported by this task"),
        (not get("print_alignment", False), "--print-alignment: this model aligns nothing"),
    ]
    broken = [message for holds, message in rules if not holds]
    if broken:
        raise UserError("; ".join(broken))


class _PrefixEnsemble(EnsembleModel):
    """Ends a hypothesis where its own prefix leaves no more positions, and runs processors."""

    def __init__(self, models, eos, processors):
        super().__init__(models)
        self.eos = eos
        self.processors = processors

    def forward_decoder(self, tokens, encoder_outs, incremental_states, temperature=1.0):
        lprobs, attn = super().forward_decoder(
            tokens, encoder_outs, incremental_states, temperature
        )
        for process in self.processors:
            lprobs = process(lprobs, tokens, encoder_outs[0])
        # token s of a continuation stands at position next + s - 1, the end needs no position
        step = tokens.size(1) - 1
        positions = encoder_outs[0].per_row(encoder_outs[0].next_positions)
        full = positions + step >= self.max_decoder_positions()
        eos = lprobs[:, self.eos].clone()
        lprobs.masked_fill_(full.unsqueeze(1), -torch.inf)
        lprobs[:, self.eos] = eos
        return lprobs, attn


class PrefixGenerator(SequenceGenerator):
    """Beam search and sampling that continue prefixes of different lengths in one batch.

    ``sample["net_input"]`` holds the prefixes ``src_tokens`` [B, S], padded at the right,
    ``src_lengths`` [B] and what the encoder takes besides. The temperature divides the
    logits: below 1 the distribution gets sharper.

    Args:
        models, tgt_dict: as fairseq's generator.
        processors: each is called with the log-probabilities [R, V], the tokens [R, 1 + t] and
            the :class:`~user_dir.modules.prefix_faces.PrefixOut`, and returns the former.
        kwargs: fairseq's options.
    """

    def __init__(self, models, tgt_dict, processors=(), **kwargs):
        eos = kwargs.get("eos")
        ensemble = _PrefixEnsemble(models, tgt_dict.eos() if eos is None else eos, processors)
        super().__init__(ensemble, tgt_dict, **kwargs)
        self.symbols_to_strip_from_output = self.symbols_to_strip_from_output | {tgt_dict.bos()}

    def _generate(self, sample, prefix_tokens=None, constraints=None, bos_token=None):
        positions = sample["net_input"].get("next_positions")
        if positions is None:
            positions = sample["net_input"]["src_lengths"]
        longest, limit = int(positions.max()), self.model.max_decoder_positions()
        if longest + self.min_len > limit:
            raise UserError(
                f"a prompt of {longest} tokens leaves {max(limit - longest, 0)} of the model's "
                f"{limit} positions, --min-len asks for {self.min_len}: shorten the prompt"
            )
        return super()._generate(sample, prefix_tokens, constraints, bos_token)
