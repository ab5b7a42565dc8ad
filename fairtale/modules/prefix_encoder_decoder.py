"""The two faces a prefix language model shows to fairseq's generator.

An ``encoder`` that reads the prefixes once, and an incremental ``decoder`` that continues
from what it read. They own no parameters: both speak for one :class:`PrefixTransformer`.
"""

from typing import NamedTuple, Optional

import torch
from fairseq.models import FairseqEncoder, FairseqIncrementalDecoder
from torch import Tensor

from .attention import PrefixCache
from .prefix_transformer import PrefixState, PrefixTransformer

_FIRST_ROOM = 32  # generated tokens a cache has room for at first; it doubles when full
_STATE = "prefix_decoder.past"


class PrefixOut(NamedTuple):
    """What the encoder hands over. Rows of the generator are beams: R = B * K."""

    tokens: Tensor  # int64 [B, S], padded at the right
    state: PrefixState  # of B prefixes
    lengths: Tensor  # int64 [B]
    next_positions: Tensor  # int64 [B]: position of the first token after each prefix
    next_segments: Optional[Tensor]  # int64 [B], or None without segments
    beams: int  # K

    @property
    def num_rows(self) -> int:
        return self.next_positions.numel() * self.beams

    def per_row(self, x: Tensor) -> Tensor:
        """[B, ...] -> [R, ...]."""
        return x if self.beams == 1 else x.repeat_interleave(self.beams, 0)


class Past:
    """Keys and values of the generated tokens, preallocated."""

    def __init__(self, like: PrefixOut):
        keys = like.state.caches[0].keys
        shape = (like.num_rows, keys.size(1), _FIRST_ROOM, keys.size(3))
        self.caches = [
            PrefixCache(keys.new_empty(shape), keys.new_empty(shape)) for _ in like.state.caches
        ]
        self.length = 0

    def make_room(self, length: int):
        room = self.caches[0].keys.size(2)
        if length <= room:
            return
        while room < length:
            room *= 2

        def grow(x):
            y = x.new_empty(x.size(0), x.size(1), room, x.size(3))
            y[:, :, : self.length] = x[:, :, : self.length]
            return y

        self.caches = [PrefixCache(grow(c.keys), grow(c.values)) for c in self.caches]

    def reorder(self, new_order: Tensor):
        """Let row i continue old row ``new_order[i]``; rows that stay are not copied."""
        same = new_order.numel() == self.caches[0].keys.size(0)
        if same:
            place = torch.arange(new_order.numel(), device=new_order.device)
            moved = (new_order != place).nonzero().squeeze(1)
            if moved.numel() == 0:
                return
            source = new_order[moved]

            def select(x):
                x[moved, :, : self.length] = x[source, :, : self.length]
                return x
        else:

            def select(x):
                return x.index_select(0, new_order)

        self.caches = [PrefixCache(select(c.keys), select(c.values)) for c in self.caches]


class PrefixEncoder(FairseqEncoder):
    """Reads whole prefixes in one pass.

    Args:
        dictionary: fairseq's.
        transformer: shared with the decoder, owned by the model.
    """

    def __init__(self, dictionary, transformer: PrefixTransformer):
        super().__init__(dictionary)
        self._shared = [transformer]  # in a list: the model owns the parameters

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        positions: Optional[Tensor] = None,
        segments: Optional[Tensor] = None,
        next_positions: Optional[Tensor] = None,
        next_segments: Optional[Tensor] = None,
        bidirectional: Optional[bool] = None,
    ) -> PrefixOut:
        """Read prefixes [B, S], padded at the right; what follows goes on at ``next_*``.

        ``bidirectional`` says otherwise than the model how a prefix is read.
        """
        state = self._shared[0].read_prefix(
            src_tokens, src_lengths, positions, segments, bidirectional
        )
        if next_positions is None:
            next_positions = src_lengths
        return PrefixOut(src_tokens, state, src_lengths, next_positions, next_segments, beams=1)

    def reorder_encoder_out(self, out: PrefixOut, new_order: Tensor) -> PrefixOut:
        """Follow the generator's rows.

        The prefixes are not copied for the beams of a sentence, nor when beams change places
        within it; only when sentences leave the batch.
        """
        num_prefixes = out.next_positions.numel()
        source = new_order // out.beams  # [R'], the prefix of each row
        if out.beams == 1 and source.numel() % num_prefixes == 0:
            beams = source.numel() // num_prefixes
            spread = torch.arange(num_prefixes, device=source.device).repeat_interleave(beams)
            if torch.equal(source, spread):
                return out._replace(beams=beams)
        beams = out.beams
        if source.numel() % beams or not (source.view(-1, beams) == source[::beams, None]).all():
            kept, beams = source, 1  # rows in no order of sentences: each gets its own prefix
        else:
            kept = source[::beams]
        if torch.equal(kept, torch.arange(num_prefixes, device=kept.device)):
            return out._replace(beams=beams)

        def select(x):
            return None if x is None else x.index_select(0, kept)

        state = PrefixState(
            select(out.state.features),
            [PrefixCache(select(c.keys), select(c.values)) for c in out.state.caches],
            select(out.state.bias),
        )
        return PrefixOut(
            select(out.tokens),
            state,
            select(out.lengths),
            select(out.next_positions),
            select(out.next_segments),
            beams,
        )

    def max_positions(self):
        return self._shared[0].max_positions


class PrefixDecoder(FairseqIncrementalDecoder):
    """Continues prefixes.

    ``prev_output_tokens[:, 0]`` stands for the last token of the prefix, which the encoder
    has read already: it is not looked at, and the first step costs one projection.
    """

    def __init__(self, dictionary, transformer: PrefixTransformer):
        super().__init__(dictionary)
        self._shared = [transformer]

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: PrefixOut,
        incremental_state: Optional[dict] = None,
        features_only: bool = False,
    ):
        """Return logits (or features) and None, as fairseq's decoders do.

        Args:
            prev_output_tokens: int64 [R, t].
            incremental_state: with it, logits of the tokens not seen before [R, t', V];
                without, of all [R, t, V].
        """
        transformer = self._shared[0]
        past = None if incremental_state is None else incremental_state.get(_STATE)
        fresh = past is None
        if fresh:
            past = Past(encoder_out)
            if incremental_state is not None:
                incremental_state[_STATE] = past
        new = prev_output_tokens[:, 1 + past.length :]
        features = []
        if fresh:
            features.append(encoder_out.per_row(encoder_out.state.features).unsqueeze(1))
        if new.size(1) > 0:
            features.append(self._continue(transformer, new, encoder_out, past))
        x = torch.cat(features, 1) if len(features) > 1 else features[0]
        return (x if features_only else transformer.logits(x)), None

    @staticmethod
    def _continue(transformer, new, out, past):
        count = new.size(1)
        past.make_room(past.length + count)
        steps = torch.arange(past.length, past.length + count, device=new.device)
        positions = out.per_row(out.next_positions).unsqueeze(1) + steps  # [R, t]
        segments = out.next_segments
        if segments is not None:
            segments = out.per_row(segments).unsqueeze(1).expand_as(positions)
        x = transformer.continue_prefix(
            new, positions, segments, out.state, past.caches, past.length
        )
        past.length += count
        return x

    def reorder_incremental_state(self, incremental_state, new_order):
        past = incremental_state.get(_STATE)
        if past is not None:
            past.reorder(new_order)

    def max_positions(self):
        return self._shared[0].max_positions
