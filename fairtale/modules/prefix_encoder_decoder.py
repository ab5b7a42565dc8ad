"""Provide the encoder and the decoder that fairseq's generator needs for a prefix language model.

fairseq's generator requires a model with an encoder and a decoder. Here the encoder reads the
prefixes once, and the incremental decoder continues them. Both use the :class:`PrefixTransformer`
of the model, and have no parameters of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqEncoder, FairseqIncrementalDecoder
from torch import Tensor

from .attention import LayerCache
from .prefix_transformer import PrefixState, PrefixTransformer

_FIRST_ROOM = 32  # initial capacity of a cache, in generated tokens; it doubles when it is full
_STATE = "prefix_decoder.cache"  # key of the cache in fairseq's incremental state


class PrefixEncoderOut(NamedTuple):
    """Output of the encoder for B prefixes, each of which K beams continue (R = B * K)."""

    tokens: Tensor  # int64 [B, S], padded at the right
    state: PrefixState  # features, keys and values of the B prefixes
    lengths: Tensor  # int64 [B]
    next_positions: Tensor  # int64 [B]: position of the first token after each prefix
    next_segments: Tensor | None  # int64 [B], or None without segments
    beams: int  # K
    whole_tokens: Tensor | None = None  # int64 [B, S'], padded: before truncation, if it differs

    @property
    def context(self) -> Tensor:
        """Return the prefixes before truncation, int64 [B, S'], padded at the right."""
        return self.tokens if self.whole_tokens is None else self.whole_tokens

    @property
    def num_rows(self) -> int:
        """Return R, the number of rows of the generator."""
        return self.next_positions.numel() * self.beams

    def per_row(self, x: Tensor) -> Tensor:
        """Repeat each prefix's entry for its beams, [B, ...] -> [R, ...]."""
        return x if self.beams == 1 else x.repeat_interleave(self.beams, 0)


class DecoderCache:
    """Preallocated keys and values of the generated tokens in all layers.

    Args:
        encoder_out: output of the encoder for the prefixes.
    """

    def __init__(self, encoder_out: PrefixEncoderOut) -> None:
        keys = encoder_out.state.caches[0].keys
        shape = (encoder_out.num_rows, keys.size(1), _FIRST_ROOM, keys.size(3))
        self.layers = [
            LayerCache(keys.new_empty(shape), keys.new_empty(shape))
            for _ in encoder_out.state.caches
        ]
        self.length = 0  # number of cached tokens

    def make_room(self, length: int) -> None:
        """Enlarge the cache if it cannot hold ``length`` tokens."""
        room = self.layers[0].keys.size(2)
        if length <= room:
            return
        while room < length:
            room *= 2

        def grow(x: Tensor) -> Tensor:
            y = x.new_empty(x.size(0), x.size(1), room, x.size(3))
            y[:, :, : self.length] = x[:, :, : self.length]
            return y

        self._replace(grow)

    def reorder(self, new_order: Tensor) -> None:
        """Reorder the cache so that row i continues the previous row ``new_order[i]``.

        If the number of rows stays the same, only rows that move are copied.
        """
        if new_order.numel() != self.layers[0].keys.size(0):
            self._replace(lambda x: x.index_select(0, new_order))
            return
        place = torch.arange(new_order.numel(), device=new_order.device)
        moved = (new_order != place).nonzero().squeeze(1)
        if moved.numel() == 0:
            return
        source = new_order[moved]
        for cache in self.layers:
            for x in cache:
                x[moved, :, : self.length] = x[source, :, : self.length]

    def _replace(self, change: Callable[[Tensor], Tensor]) -> None:
        self.layers = [LayerCache(change(c.keys), change(c.values)) for c in self.layers]


class PrefixEncoder(FairseqEncoder):
    """Read whole prefixes in one pass.

    Args:
        dictionary: fairseq's dictionary.
        transformer: transformer of the model, shared with the decoder.
    """

    def __init__(self, dictionary: Dictionary, transformer: PrefixTransformer) -> None:
        super().__init__(dictionary)
        # the list prevents torch from registering the parameters of the model a second time
        self._shared = [transformer]

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        next_positions: Tensor | None = None,
        next_segments: Tensor | None = None,
        bidirectional: bool | None = None,
        context_tokens: Tensor | None = None,
    ) -> PrefixEncoderOut:
        """Read prefixes of different lengths.

        Args:
            src_tokens: int64 [B, S], padded at the right.
            src_lengths: int64 [B], each at least 1.
            positions: int64 [B, S]; default: 0 to S - 1.
            segments: int64 [B, S], or None without segments.
            next_positions: positions of the first generated tokens, int64 [B]; default:
                ``src_lengths``.
            next_segments: segment of all generated tokens, int64 [B].
            bidirectional: attend in both directions within a prefix; the default depends on the
                model.
            context_tokens: the prefixes before truncation, int64 [B, S'], which are not read, but
                kept for those who process the output; default: ``src_tokens``.
        """
        state = self._shared[0].read_prefix(
            src_tokens, src_lengths, positions, segments, bidirectional
        )
        if next_positions is None:
            next_positions = src_lengths
        return PrefixEncoderOut(
            src_tokens, state, src_lengths, next_positions, next_segments, 1, context_tokens
        )

    def reorder_encoder_out(self, out: PrefixEncoderOut, new_order: Tensor) -> PrefixEncoderOut:
        """Reorder the output so that row i continues the previous row ``new_order[i]``.

        Prefixes are copied only if sentences leave the batch or change their order. They are not
        copied for the beams of a sentence, or if beams are reordered within a sentence.
        """
        num_prefixes = out.next_positions.numel()
        source = new_order // out.beams  # [R']: index of each row's prefix
        if out.beams == 1 and source.numel() % num_prefixes == 0:
            beams = source.numel() // num_prefixes
            spread = torch.arange(num_prefixes, device=source.device).repeat_interleave(beams)
            if torch.equal(source, spread):
                return out._replace(beams=beams)
        beams = out.beams
        if source.numel() % beams or not (source.view(-1, beams) == source[::beams, None]).all():
            kept, beams = source, 1  # rows are not grouped by sentence; copy a prefix for each row
        else:
            kept = source[::beams]
        if torch.equal(kept, torch.arange(num_prefixes, device=kept.device)):
            return out._replace(beams=beams)

        def select(x: Tensor) -> Tensor:
            return x.index_select(0, kept)

        state = PrefixState(
            select(out.state.features),
            [LayerCache(select(cache.keys), select(cache.values)) for cache in out.state.caches],
            select(out.state.bias),
        )
        return PrefixEncoderOut(
            select(out.tokens),
            state,
            select(out.lengths),
            select(out.next_positions),
            None if out.next_segments is None else select(out.next_segments),
            beams,
            None if out.whole_tokens is None else select(out.whole_tokens),
        )

    def max_positions(self) -> int:
        """Return the length of the longest row."""
        return self._shared[0].max_positions


class PrefixDecoder(FairseqIncrementalDecoder):
    """Continue prefixes.

    ``prev_output_tokens[:, 0]`` represents the last token of the prefix. The encoder has already
    read that token, so its value is ignored, and the first step needs only the output projection.

    Args:
        dictionary: fairseq's dictionary.
        transformer: transformer of the model, shared with the encoder.
    """

    def __init__(self, dictionary: Dictionary, transformer: PrefixTransformer) -> None:
        super().__init__(dictionary)
        self._shared = [transformer]

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: PrefixEncoderOut,
        incremental_state: dict[str, Any] | None = None,
        features_only: bool = False,
    ) -> tuple[Tensor, None]:
        """Return logits (or features) and None, as fairseq's decoders do.

        Args:
            prev_output_tokens: int64 [R, t].
            encoder_out: output of the encoder for the prefixes.
            incremental_state: state of the generation. With a state, only the logits of new tokens
                [R, t', V] are returned; without, those of all tokens [R, t, V].
            features_only: return the features before the projection to the vocabulary.
        """
        transformer = self._shared[0]
        cache = None if incremental_state is None else incremental_state.get(_STATE)
        features = []
        if cache is None:
            cache = DecoderCache(encoder_out)
            if incremental_state is not None:
                incremental_state[_STATE] = cache
            features.append(encoder_out.per_row(encoder_out.state.features).unsqueeze(1))
        new = prev_output_tokens[:, 1 + cache.length :]
        if new.size(1) > 0:
            features.append(self._continue(new, encoder_out, cache))
        x = torch.cat(features, 1) if len(features) > 1 else features[0]
        return (x if features_only else transformer.logits(x)), None

    def _continue(self, new: Tensor, out: PrefixEncoderOut, cache: DecoderCache) -> Tensor:
        """Read new tokens [R, t], add them to the cache, and return their features [R, t, C]."""
        end = cache.length + new.size(1)
        cache.make_room(end)
        steps = torch.arange(cache.length, end, device=new.device)
        positions = out.per_row(out.next_positions).unsqueeze(1) + steps  # [R, t]
        segments = out.next_segments
        if segments is not None:
            segments = out.per_row(segments).unsqueeze(1).expand_as(positions)
        x = self._shared[0].continue_prefix(
            new, positions, segments, out.state, cache.layers, cache.length
        )
        cache.length = end
        return x

    def reorder_incremental_state(
        self, incremental_state: dict[str, Any], new_order: Tensor
    ) -> None:
        """Reorder the cache so that row i continues the previous row ``new_order[i]``."""
        cache = incremental_state.get(_STATE)
        if cache is not None:
            cache.reorder(new_order)

    def max_positions(self) -> int:
        """Return the length of the longest row."""
        return self._shared[0].max_positions
