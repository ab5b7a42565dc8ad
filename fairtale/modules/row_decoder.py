"""Read prompts and continue texts, each with its own length, in one batch that changes at any time.

What is computed for a text does not depend on the other texts of the batch, bit for bit: products
have batch sizes that round alike, prompts attend one by one, and what a masked position adds to a
sum is exactly 0 (see :mod:`~fairtale.modules.same_rounding`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .packed_linear import PackedLinear, can_pack, pack_layers
from .prefix_transformer import PrefixTransformer
from .row_cache import BLOCK, RowCache
from .same_rounding import sizes_that_round_alike

_STEP_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
_READ_SIZES = (4, 8, 16, 32, 64, 128, 256)


class Piece(NamedTuple):
    """Consecutive tokens of a prompt that are read in one pass."""

    row: int  # of the cache
    start: int  # number of tokens of the row that the cache already holds
    tokens: Tensor  # int64 [t], as the following two
    positions: Tensor
    segments: Tensor | None
    bidirectional: bool  # the tokens attend to each other in both directions
    is_last: bool  # the prompt ends here
    needs_all: bool = False  # the features of all its tokens are needed

    @property
    def num_features(self) -> int:
        """Return the number of tokens whose features are needed, which are the last ones."""
        return len(self.tokens) if self.needs_all else int(self.is_last)


def attend_fused(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attend with torch's fused kernel.

    Args:
        q: [R, H, 1, D].
        keys, values: [R, H, P, D].
        mask: bool [R, 1, 1, P], True where a row attends; not empty in any row.

    Returns:
        [R, H, 1, D].
    """
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)


def attend_by_products(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attend with two matrix products; see :func:`attend_fused`.

    It is slower, but rounds alike where the fused kernel divides its work by the size of the batch.
    """
    scores = (q * q.size(-1) ** -0.5) @ keys.transpose(2, 3)
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1, dtype=torch.float32)
    return weights.type_as(q) @ values


_ATTENTIONS = (attend_fused, attend_by_products)


class RowDecoder:
    """Read prompts into the rows of a cache, and continue the first rows of it by one token.

    Args:
        transformer: the model, in evaluation mode; where :class:`PackedLinear` is faster than its
            linear layers, it replaces them.
        cache: the cache, whose rows the caller gives to texts.

    Attributes:
        is_exact: whether rows were found to be independent of each other to the last bit.
    """

    def __init__(self, transformer: PrefixTransformer, cache: RowCache) -> None:
        self.transformer, self.cache = transformer, cache
        self._device = cache.data.device
        self._attend: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None = None
        self.is_exact = True
        self._output: PackedLinear | None = None
        if can_pack(transformer.output_weight()):
            pack_layers(transformer)
            self._output = PackedLinear(transformer.output_weight())
        if self._device.type != "cpu":  # each row of the batch by itself would take too many calls
            attention = _attention_that_rounds_alike(cache)
            self._attend, self.is_exact = attention or attend_by_products, attention is not None
        with torch.no_grad():
            self._choose_sizes()

    def _choose_sizes(self) -> None:
        width = self.transformer.embed_tokens.embedding_dim
        layer = self.transformer.layers[0]
        generator = torch.Generator("cpu").manual_seed(0)
        largest = max(_READ_SIZES)
        rows = torch.randn(largest, width, generator=generator, device="cpu")
        rows = rows.to(self._device, self.cache.data.dtype)

        def through_layer(x: Tensor) -> Tensor:
            return torch.cat([layer.project(x), layer.finish(x, x.flip(1))], 1)

        def to_logits(x: Tensor) -> Tensor:
            return torch.cat([through_layer(x), self._project(x)], 1)

        most = next((s for s in _STEP_SIZES if s >= self.cache.rows), _STEP_SIZES[-1])
        steps = [s for s in _STEP_SIZES if s <= most]
        self.step_sizes = sizes_that_round_alike(to_logits, rows[: steps[-1]], steps)
        self.read_sizes = sizes_that_round_alike(through_layer, rows, _READ_SIZES)

    # -------------------------------------------------------------------------- prompts

    @torch.no_grad()
    def read(self, pieces: Sequence[Piece]) -> Tensor:
        """Read pieces of prompts together, and write their keys and values into the cache.

        Args:
            pieces: at most one of each row.

        Returns:
            The features [N, C] of the last token of each prompt that ends, and of all tokens of
            pieces that need them.
        """
        model, sizes = self.transformer, self.read_sizes
        counts = [len(piece.tokens) for piece in pieces]
        total = sum(counts)
        positions = torch.cat([piece.positions for piece in pieces])
        segments = [piece.segments for piece in pieces if piece.segments is not None]
        x = model.embed(
            torch.cat([piece.tokens for piece in pieces]),
            positions,
            torch.cat(segments) if segments else None,
        )
        rows = torch.tensor([p.row for p in pieces], device=self._device)
        rows = rows.repeat_interleave(torch.tensor(counts, device=self._device))
        inside = torch.cat([torch.arange(p.start, p.start + n) for p, n in zip(pieces, counts)])
        places = self.cache.places(rows, inside.to(self._device))
        ends = accumulate(counts)
        needed = [torch.arange(e - p.num_features, e) for p, e in zip(pieces, ends)]
        last = torch.cat(needed).to(self._device)
        x = sizes.fill(x)
        masks = [_mask(piece, count, self._device) for piece, count in zip(pieces, counts)]
        for number, layer in enumerate(model.layers):
            qkv = self._heads(sizes.apply(layer.project, x)[:total])
            self.cache.write(number, places, qkv[:, 1:])
            found = []
            for piece, part, mask in zip(pieces, torch.split(qkv[:, 0], counts), masks):
                found.append(self._attend_piece(number, piece, part, mask))
            y = torch.cat(found)
            if number == len(model.layers) - 1:  # most tokens are not needed any more
                x, y = sizes.fill(x.index_select(0, last)), y.index_select(0, last)
            x = sizes.apply(layer.finish, x, sizes.fill(y))
        return model.final(x[: len(last)])

    def _heads(self, qkv: Tensor) -> Tensor:
        """Return queries, keys and values by heads, [n, 3C] -> [n, 3, H, D]."""
        _, _, _, heads, _, dim = self.cache.data.shape
        return qkv.view(-1, 3, heads, dim)

    def _attend_piece(self, layer: int, piece: Piece, q: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from the queries [t, H, D] of a piece to its row; return [t, C]."""
        keys, values = self.cache.layer(layer)
        end = piece.start + q.size(0)
        y = F.scaled_dot_product_attention(
            q.transpose(0, 1).unsqueeze(0),
            keys[piece.row, :, :end].unsqueeze(0),
            values[piece.row, :, :end].unsqueeze(0),
            attn_mask=mask,
            is_causal=mask is None and not piece.bidirectional,
        )
        return y[0].transpose(0, 1).flatten(1)

    # ---------------------------------------------------------------------------- steps

    @torch.no_grad()
    def step(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        segments: Sequence[int] | None,
        lengths: Sequence[int],
    ) -> Tensor:
        """Read one more token of each of the first n rows of the cache.

        Args:
            tokens, positions, segments: the new token of each row, its position and its segment.
            lengths: number of tokens of each row that the cache already holds.

        Returns:
            The features [n, C] of the new tokens.
        """
        model, count = self.transformer, len(tokens)
        size = self.step_sizes.fitting(count)
        table = [tokens, positions, lengths, *([] if segments is None else [segments])]
        filled = [[*column, *[0] * (size - count)] for column in table]
        columns = torch.tensor(filled, device=self._device)  # one transfer
        x = model.embed(columns[0], columns[1], None if segments is None else columns[3])
        length = columns[2, :count]
        places = self.cache.places(torch.arange(count, device=self._device), length)
        attend = self._alone(lengths) if self._attend is None else self._together(lengths, length)
        for number, layer in enumerate(model.layers):
            qkv = self._heads(self.step_sizes.apply(layer.project, x))
            self.cache.write(number, places, qkv[:count, 1:])
            y = attend(number, qkv[:, 0].unsqueeze(2)).view(size, -1)
            x = self.step_sizes.apply(layer.finish, x, y)
        return model.final(x)[:count]

    def _alone(self, lengths: Sequence[int]) -> Callable[[int, Tensor], Tensor]:
        """Return a function that attends row by row, for a CPU.

        Each row then reads no more than its own keys, and has no neighbours to depend on.
        """
        data = self.cache.data
        views = [  # of each row, the keys and values [1, H, t, D] of all layers
            data.narrow(2, row, 1).narrow(4, 0, length + 1).flatten(0, 1).unbind(0)
            for row, length in enumerate(lengths)
        ]

        def attend(layer: int, q: Tensor) -> Tensor:
            found = [
                F.scaled_dot_product_attention(one, view[2 * layer], view[2 * layer + 1])
                for one, view in zip(torch.split(q, 1), views)
            ]
            if missing := q.size(0) - len(views):
                found.append(q.new_zeros(missing, *q.shape[1:]))
            return torch.cat(found)

        return attend

    def _together(self, lengths: Sequence[int], length: Tensor) -> Callable[[int, Tensor], Tensor]:
        """Return a function that attends in all rows at once, for a GPU; ``length`` is on it."""
        count, width = len(lengths), (max(lengths) // BLOCK + 1) * BLOCK
        mask = torch.arange(width, device=self._device) <= length.unsqueeze(1)
        mask = mask[:, None, None]
        function = self._attend
        assert function is not None

        def attend(layer: int, q: Tensor) -> Tensor:
            keys, values = self.cache.layer(layer)
            y = function(q[:count], keys[:count, :, :width], values[:count, :, :width], mask)
            return F.pad(y, (0, 0, 0, 0, 0, 0, 0, q.size(0) - count))

        return attend

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """Return the logits of the next tokens, fp32 [n, V], from features [n, C]."""
        x = self.step_sizes.fill(features)
        return self.step_sizes.apply(self._project, x)[: features.size(0)].float()

    def _project(self, x: Tensor) -> Tensor:
        """Return the logits [n, V] of features [n, C]; see :meth:`PrefixTransformer.logits`."""
        if self._output is None:
            return self.transformer.logits(x)
        unpredicted = self.transformer.embed_tokens.num_embeddings - self.transformer.num_predicted
        return F.pad(self._output(x), (0, unpredicted), value=-torch.inf)


def _mask(piece: Piece, count: int, device: torch.device) -> Tensor | None:
    """Return the mask [t, start + t] of a piece behind others; None for a first piece."""
    if piece.start == 0:
        return None
    mask = torch.ones(count, piece.start + count, dtype=torch.bool, device=device)
    return mask.tril_(piece.start)


def _attention_that_rounds_alike(
    cache: RowCache,
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None:
    """Return the first attention whose rows are independent of the batch; None if none is."""
    _, _, _, heads, _, dim = cache.data.shape
    generator = torch.Generator("cpu").manual_seed(0)
    count, width = 16, 2 * BLOCK
    q, keys, values = (
        torch.randn(count, heads, n, dim, generator=generator, device="cpu").to(
            cache.data.device, cache.data.dtype
        )
        for n in (1, width, width)
    )
    lengths = torch.arange(1, count + 1, device=q.device) * 3 + BLOCK // 4
    mask = (torch.arange(width, device=q.device) < lengths.unsqueeze(1))[:, None, None]
    for attend in _ATTENTIONS:
        whole = attend(q, keys, values, mask)
        alike = True
        for first, last in ((0, 1), (0, 2), (1, 4), (3, 11), (8, 16), (15, 16)):
            part = slice(first, last)
            for end in {width, BLOCK} if last * 3 + BLOCK // 4 <= BLOCK else {width}:
                found = attend(
                    q[part], keys[part, :, :end], values[part, :, :end], mask[part, ..., :end]
                )
                alike = alike and torch.equal(found, whole[part])
        if alike:
            return attend
    return None
