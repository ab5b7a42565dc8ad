"""Attention of a pruned layer: any number of heads, also none."""

import math
from typing import Optional

import torch
import torch.nn.functional as F
from fairseq.incremental_decoding_utils import FairseqIncrementalState
from torch import Tensor, nn

from ..errors import UserError

_STATE = "attn_state"  # as fairseq's MultiheadAttention names it
_FEW_QUERIES = 16  # up to here plain products are as fast as the fused kernel, or faster


class BiasOnly(nn.Module):
    """What is left of a linear layer without inputs: its bias, whatever comes in.

    Args:
        out_features: channels of the bias.
    """

    def __init__(self, out_features: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """[..., any] -> [..., out_features]."""
        return self.bias.expand(*x.shape[:-1], -1).type_as(x)


class NarrowAttention(FairseqIncrementalState, nn.Module):
    """Multi-head attention with ``num_heads * head_dim`` channels inside, C outside.

    Called as fairseq's ``MultiheadAttention``, with the same names of parameters and of the
    incremental state. Differences: attention weights, also those of each head, are given only
    if asked for; without heads there are none (None), and asking for them with
    ``--print-alignment`` is an error. The rows of a batch whose keys are equal
    (the beams of a sentence) share one copy of them in the incremental state.

    Args:
        embed_dim: C, of queries and output.
        num_heads: H, 0 or more.
        head_dim: D.
        dropout: probability of dropping an attention weight, 0 to 1.
        self_attention: keys and values are the queries.
        encoder_decoder_attention: keys are values, and stay the same in all steps.
        kdim, vdim: channels of keys and values, C unless given.
        bias: of the three projections and the output.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        head_dim: int,
        *,
        dropout: float = 0.0,
        self_attention: bool = False,
        encoder_decoder_attention: bool = False,
        kdim: Optional[int] = None,
        vdim: Optional[int] = None,
        bias: bool = True,
    ):
        super().__init__()
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.dropout = dropout
        self.self_attention = self_attention
        self.encoder_decoder_attention = encoder_decoder_attention
        self._dropout_stays = False
        self._aligns = False
        inner = num_heads * head_dim
        if inner == 0:
            self.out_proj = BiasOnly(embed_dim)
            return
        self.q_proj = nn.Linear(embed_dim, inner, bias=bias)
        self.k_proj = nn.Linear(self.kdim, inner, bias=bias)
        self.v_proj = nn.Linear(self.vdim, inner, bias=bias)
        self.out_proj = nn.Linear(inner, embed_dim, bias=bias)
        gain = 1 / math.sqrt(2) if self.kdim == self.vdim == embed_dim else 1.0
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.xavier_uniform_(projection.weight, gain=gain)
        nn.init.xavier_uniform_(self.out_proj.weight)
        if bias:
            nn.init.zeros_(self.out_proj.bias)

    def extra_repr(self):
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}"

    # ------------------------------------------------------------------------- forward

    def forward(
        self,
        query: Tensor,
        key: Optional[Tensor],
        value: Optional[Tensor],
        key_padding_mask: Optional[Tensor] = None,
        incremental_state: Optional[dict] = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Optional[Tensor] = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Optional[Tensor]]:
        """Attend from ``query`` [T, B, C] to ``key`` and ``value`` [S, B, kdim or vdim].

        Args:
            key_padding_mask: [B, S], True (or 1) on padding.
            incremental_state: of one generation; keys and values are added to it.
            need_weights: return weights [B, T, S], the mean of the heads.
            static_kv: keys and values of the first step serve all others.
            attn_mask: [T, S], added to the scores; or bool, True where it may not look.
            before_softmax: return the scores [B * H, T, S] and the values [B * H, S, D].
            need_head_weights: return weights [H, B, T, S].

        Returns:
            output [T, B, C], and the weights or None.

        Raises:
            UserError: an alignment is to be printed, and this attention has no heads.
        """
        if self.num_heads == 0:
            # the weights of each head are asked for where the alignment is taken from
            if self._aligns and need_head_weights:
                raise UserError(
                    "--print-alignment: the attention to the encoder that the alignment is taken "
                    "from has no heads left; leave the option out, or keep heads of the last "
                    "decoder layer's cross attention when pruning"
                )
            return self.out_proj(query), None
        t, b, _ = query.shape
        state = None
        if incremental_state is not None:
            state = self._get_input_buffer(incremental_state)
        if state and static_kv and "prev_key" in state:
            q = self._split(self.q_proj(query))
            k, v = state["prev_key"], state["prev_value"]
            key_padding_mask = state.get("prev_key_padding_mask")
        else:
            if state is not None and static_kv:
                key, value, key_padding_mask = share_equal_rows(key, value, key_padding_mask)
                state["beams"] = b // key.size(1)
            q, k, v = self._project(query, key, value)
            if state is not None:
                k, v, key_padding_mask = self._remember(state, k, v, key_padding_mask, static_kv)
                self._set_input_buffer(incremental_state, state)
        # [B, H, T, D]; where K rows share their keys, these are K * T queries of them
        rows = k.size(0)
        beams = b // rows
        if beams > 1:
            q = self._group(q, beams)
        mask = _as_bias(key_padding_mask, attn_mask, q.dtype)
        if beams > 1 and mask is not None and mask.size(2) > 1:
            mask = mask.repeat(1, 1, beams, 1)
        if before_softmax:
            scores = self._ungroup(self._scores(q, k, mask), beams)
            return scores.flatten(0, 1), v.repeat_interleave(beams, 0).flatten(0, 1)
        y, weights = self.attend(q, k, v, mask, need_weights or need_head_weights)
        if weights is not None:
            weights = self._ungroup(weights, beams).transpose(0, 1)  # [H, B, T, S]
            if not need_head_weights:
                weights = weights.mean(0)
        y = self._ungroup(y, beams) if beams > 1 else y
        y = y.permute(2, 0, 1, 3).reshape(t, b, self.num_heads * self.head_dim)
        return self.out_proj(y), weights

    def attend(self, q, k, v, mask: Optional[Tensor], need_weights: bool):
        """Return what heads gather [B, H, T, D] and, if needed, their weights [B, H, T, S].

        Args:
            q, k, v: [B, H, T or S, D].
            mask: added to the scores [B, H, T, S].
        """
        p = self.dropout if self.training or self._dropout_stays else 0.0
        if not need_weights and q.size(2) > _FEW_QUERIES:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p), None
        weights = self._scores(q, k, mask).softmax(-1, dtype=torch.float32)
        y = F.dropout(weights.type_as(q), p, p > 0) @ v
        return y, weights if need_weights else None

    def _scores(self, q, k, mask):
        scores = (q * self.head_dim**-0.5) @ k.transpose(2, 3)
        return scores if mask is None else scores + mask

    def _split(self, x):
        """[T, B, H * D] -> [B, H, T, D], a view."""
        t, b, _ = x.shape
        return x.view(t, b, self.num_heads, self.head_dim).permute(1, 2, 0, 3)

    def _group(self, x, beams):
        """[B * K, H, T, D] -> [B, H, K * T, D]."""
        r, h, t, d = x.shape
        x = x.reshape(r // beams, beams, h, t, d).transpose(1, 2)
        return x.reshape(r // beams, h, beams * t, d)

    def _ungroup(self, x, beams):
        """[B, H, K * T, any] -> [B * K, H, T, any]."""
        b, h, n, d = x.shape
        x = x.view(b, h, beams, n // beams, d).transpose(1, 2)
        return x.reshape(b * beams, h, n // beams, d)

    def _project(self, query, key, value):
        if self.self_attention:
            key = value = query
        elif self.encoder_decoder_attention:
            value = key
        pairs = (self.q_proj, query), (self.k_proj, key), (self.v_proj, value)
        return [self._split(projection(x)) for projection, x in pairs]

    # -------------------------------------------------------------------- keys and values

    def _remember(self, state, k, v, key_padding_mask, static_kv):
        """Add keys and values to the state; return all there are, and their padding."""
        if static_kv:
            k, v = k.contiguous(), v.contiguous()  # once, they are read in every step
        elif "prev_key" in state:
            past = state["prev_key"].size(2)
            key_padding_mask = _append_padding(
                state.get("prev_key_padding_mask"), key_padding_mask, k.size(0), past, k.size(2)
            )
            k = torch.cat([state["prev_key"], k], 2)
            v = torch.cat([state["prev_value"], v], 2)
        state.update(prev_key=k, prev_value=v, prev_key_padding_mask=key_padding_mask)
        return k, v, key_padding_mask

    def reorder_incremental_state(self, incremental_state: dict, new_order: Tensor):
        """Let row i continue old row ``new_order[i]``."""
        state = self._get_input_buffer(incremental_state)
        if not state:
            return incremental_state
        rows = state["prev_key"].size(0)
        if self.encoder_decoder_attention:
            beams = state.get("beams", 1)
            source = new_order // beams
            groups = source.view(-1, beams) if source.numel() % beams == 0 else None
            if groups is not None and (groups == groups[:, :1]).all():
                source = groups[:, 0]
                if torch.equal(source, torch.arange(rows, device=source.device)):
                    return incremental_state
            else:
                state["beams"] = 1
        else:
            source = new_order
        for name in ("prev_key", "prev_value", "prev_key_padding_mask"):
            if state.get(name) is not None:
                state[name] = state[name].index_select(0, source)
        return self._set_input_buffer(incremental_state, state)

    def _get_input_buffer(self, incremental_state):
        return self.get_incremental_state(incremental_state, _STATE) or {}

    def _set_input_buffer(self, incremental_state, buffer):
        return self.set_incremental_state(incremental_state, _STATE, buffer)

    # ---------------------------------------------------------------------- fairseq's hooks

    def make_generation_fast_(
        self,
        name="",
        need_attn=False,
        retain_dropout=False,
        retain_dropout_modules=None,
        **unused,
    ):
        """Keep dropout in generation, if that is asked for of this kind of module.

        Args:
            need_attn: an alignment is to be printed (--print-alignment).
        """
        kind = type(self).__name__
        wanted = retain_dropout_modules is None or {kind, "MultiheadAttention"} & set(
            retain_dropout_modules
        )
        self._dropout_stays = bool(retain_dropout and wanted)
        self._aligns = bool(need_attn)


def share_equal_rows(key: Tensor, value: Tensor, key_padding_mask: Optional[Tensor]):
    """Keep one of each K rows in turn that are equal, as the beams of a sentence are.

    Args:
        key, value: [S, B * K, any]; K is found here, and may be 1. The values of equal keys
            must be equal.
        key_padding_mask: [B * K, S] or None.

    Returns:
        key, value [S, B, any] and mask [B, S], the same objects where K = 1.
    """
    rows = key.size(1)
    if rows == 1:
        return key, value, key_padding_mask
    changes = (key[:, 1:] != key[:, :-1]).any(2).any(0)  # [B * K - 1]
    if key_padding_mask is not None:
        changes |= (key_padding_mask[1:] != key_padding_mask[:-1]).any(1)
    starts = changes.nonzero().squeeze(1) + 1
    # neighbours that happen to be equal are no harm: they only leave a start out
    beams = math.gcd(rows, *starts.tolist())
    if beams == 1:
        return key, value, key_padding_mask
    if key_padding_mask is not None:
        key_padding_mask = key_padding_mask[::beams]
    return key[:, ::beams], value[:, ::beams], key_padding_mask


def _append_padding(old, new, rows, past, count):
    """Padding [B, past + count] of keys seen before and of new ones; None is no padding."""
    if old is None and new is None:
        return None
    like = new if old is None else old
    mask = torch.zeros(rows, past + count, dtype=torch.bool, device=like.device)
    if old is not None:
        mask[:, :past] = old.bool()
    if new is not None:
        mask[:, past + count - new.size(1) :] = new.bool()
    return mask


def _as_bias(key_padding_mask, attn_mask, dtype):
    """What is added to scores [B, H, T, S]: [B, 1, 1 or T, S] or [T, S]; None is nothing."""

    def to_bias(mask):
        if mask.dtype not in (torch.bool, torch.uint8):
            return mask.to(dtype)
        zeros = torch.zeros_like(mask, dtype=dtype)
        return zeros.masked_fill(mask.bool(), -torch.inf)

    bias = None if attn_mask is None else to_bias(attn_mask)
    if key_padding_mask is None:
        return None if bias is None else bias[None, None]
    padding = to_bias(key_padding_mask.bool())[:, None, None]
    return padding if bias is None else padding + bias
