"""Attention of a pruned layer, with any number of heads or none."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.incremental_decoding_utils import FairseqIncrementalState
from torch import Tensor, nn

from ..errors import UserError
from .attention_keys import append_padding, as_bias, share_beams

# The state of one attention between steps: prev_key and prev_value [B, H, S, D] and
# prev_key_padding_mask [B, S], named as in fairseq's MultiheadAttention, and beams, the number of
# rows that share the same keys.
State = dict[str, Any]
_STATE = "attn_state"  # key of the state in fairseq's incremental state
_FEW_QUERIES = 16  # for at most so many queries, plain products are as fast as the fused kernel


class BiasOnly(nn.Module):
    """A linear layer without input features, which returns its bias.

    Args:
        out_features: channels of the bias.
    """

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Expand the bias, [..., any] -> [..., out_features]."""
        return self.bias.expand(*x.shape[:-1], -1).type_as(x)


class NarrowAttention(FairseqIncrementalState, nn.Module):
    """Multi-head attention with ``num_heads * head_dim`` inner channels and C outer channels.

    It has the interface of fairseq's ``MultiheadAttention``, with the same names of parameters and
    of the incremental state. Differences: attention weights are returned only if they are
    requested; without heads they are None, and requesting them with ``--print-alignment`` is an
    error. In the incremental state, the beams of a sentence share one copy of the keys and values
    of the source, see :meth:`set_beam_size`.

    Args:
        embed_dim: C, the channels of queries and output.
        num_heads: H, 0 or more.
        head_dim: D.
        dropout: probability of dropping an attention weight, 0 to 1.
        self_attention: keys and values are the queries.
        encoder_decoder_attention: values are the keys, which are the same in all steps.
        kdim, vdim: channels of keys and values; default C.
        bias: use biases in the three input projections and the output projection.
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
        kdim: int | None = None,
        vdim: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.dropout = dropout
        self.self_attention = self_attention
        self.encoder_decoder_attention = encoder_decoder_attention
        self.beam_size = 1
        self._dropout_stays = False
        self._aligns = False
        inner = num_heads * head_dim
        self.out_proj: nn.Linear | BiasOnly
        if inner == 0:
            self.out_proj = BiasOnly(embed_dim)
            return
        self.q_proj = nn.Linear(embed_dim, inner, bias=bias)
        self.k_proj = nn.Linear(self.kdim, inner, bias=bias)
        self.v_proj = nn.Linear(self.vdim, inner, bias=bias)
        self.out_proj = output = nn.Linear(inner, embed_dim, bias=bias)
        gain = 1 / math.sqrt(2) if self.kdim == self.vdim == embed_dim else 1.0
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.xavier_uniform_(projection.weight, gain=gain)
        nn.init.xavier_uniform_(output.weight)
        if bias:
            nn.init.zeros_(output.bias)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, head_dim={self.head_dim}"

    # ------------------------------------------------------------------------- forward

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: Tensor | None = None,
        incremental_state: dict[str, Any] | None = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Tensor | None = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from ``query`` [T, B, C] to ``key`` and ``value`` [S, B, kdim or vdim].

        Args:
            query: queries [T, B, C].
            key: keys [S, B, kdim].
            value: values [S, B, vdim].
            key_padding_mask: [B, S], True (or 1) on padding.
            incremental_state: state of a generation; keys and values are added to it.
            need_weights: return weights [B, T, S], the mean over the heads.
            static_kv: use the keys and values of the first step in all steps.
            attn_mask: [T, S], added to the scores; or bool, True on keys that are excluded.
            before_softmax: return the scores [B * H, T, S] and the values [B * H, S, D].
            need_head_weights: return weights [H, B, T, S].

        Returns:
            The output [T, B, C], and the weights or None.

        Raises:
            UserError: ``--print-alignment`` needs the weights, and this attention has no heads.
        """
        if self.num_heads == 0:
            # fairseq requests the weights of each head in the layer that defines the alignment
            if self._aligns and need_head_weights:
                raise UserError(
                    "--print-alignment: the cross attention that defines the alignment has no "
                    "heads left; leave the option out, or keep heads of the cross attention in "
                    "the last decoder layer when pruning"
                )
            return self.out_proj(query), None
        t, b, _ = query.shape
        q = self._split(self.q_proj(query))
        k, v, key_padding_mask = self._keys_and_values(
            query, key, value, key_padding_mask, incremental_state, static_kv
        )
        # [B, H, T, D]; if K rows share their keys, they become K * T queries of the same keys
        rows = k.size(0)
        beams = b // rows
        if beams > 1:
            q = self._group(q, beams)
        mask = as_bias(key_padding_mask, attn_mask, q.dtype)
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

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the outputs of the heads [B, H, T, D] and, if needed, the weights [B, H, T, S].

        Args:
            q: queries [B, H, T, D].
            k, v: keys and values [B, H, S, D].
            mask: bias that is added to the scores [B, H, T, S], or None.
            need_weights: return the weights too.
        """
        p = self.dropout if self.training or self._dropout_stays else 0.0
        if not need_weights and q.size(2) > _FEW_QUERIES:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p), None
        weights = self._scores(q, k, mask).softmax(-1, dtype=torch.float32)
        y = F.dropout(weights.type_as(q), p, p > 0) @ v
        return y, weights if need_weights else None

    def _scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        scores = (q * self.head_dim**-0.5) @ k.transpose(2, 3)
        return scores if mask is None else scores + mask

    def _split(self, x: Tensor) -> Tensor:
        """Separate the heads, [T, B, H * D] -> [B, H, T, D], as a view."""
        t, b, _ = x.shape
        return x.view(t, b, self.num_heads, self.head_dim).permute(1, 2, 0, 3)

    def _group(self, x: Tensor, beams: int) -> Tensor:
        """Move the beams of a sentence into one row, [B * K, H, T, D] -> [B, H, K * T, D]."""
        r, h, t, d = x.shape
        x = x.reshape(r // beams, beams, h, t, d).transpose(1, 2)
        return x.reshape(r // beams, h, beams * t, d)

    def _ungroup(self, x: Tensor, beams: int) -> Tensor:
        """Undo :meth:`_group`, [B, H, K * T, any] -> [B * K, H, T, any]."""
        b, h, n, d = x.shape
        x = x.view(b, h, beams, n // beams, d).transpose(1, 2)
        return x.reshape(b * beams, h, n // beams, d)

    # -------------------------------------------------------------------- keys and values

    def _keys_and_values(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: Tensor | None,
        incremental_state: dict[str, Any] | None,
        static_kv: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return keys and values [B, H, S, D] and padding [B, S], including earlier steps.

        The arguments are those of :meth:`forward`. If the K beams of a sentence share its keys, B
        is the number of rows divided by K.
        """
        if incremental_state is None:
            return *self._project(query, key, value), key_padding_mask
        state = self._get_input_buffer(incremental_state)
        if static_kv and "prev_key" in state:
            return state["prev_key"], state["prev_value"], state.get("prev_key_padding_mask")
        if static_kv:
            assert key is not None and value is not None, (
                "the first step needs the output of the encoder"
            )
            rows = key.size(1)
            key, value, key_padding_mask = share_beams(key, value, key_padding_mask, self.beam_size)
            state["beams"] = rows // key.size(1)
        k, v = self._project(query, key, value)
        if static_kv:
            k, v = k.contiguous(), v.contiguous()  # copy once, because every step reads them
        elif "prev_key" in state:
            past = state["prev_key"].size(2)
            key_padding_mask = append_padding(
                state.get("prev_key_padding_mask"), key_padding_mask, k.size(0), past, k.size(2)
            )
            k = torch.cat([state["prev_key"], k], 2)
            v = torch.cat([state["prev_value"], v], 2)
        state.update(prev_key=k, prev_value=v, prev_key_padding_mask=key_padding_mask)
        self._set_input_buffer(incremental_state, state)
        return k, v, key_padding_mask

    def _project(
        self, query: Tensor, key: Tensor | None, value: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return new keys and values [B, H, S, D]."""
        if self.self_attention:
            key = value = query
        elif self.encoder_decoder_attention:
            value = key
        return self._split(self.k_proj(key)), self._split(self.v_proj(value))

    def reorder_incremental_state(
        self, incremental_state: dict[str, Any], new_order: Tensor
    ) -> dict[str, Any]:
        """Reorder the state so that row i continues the previous row ``new_order[i]``."""
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

    def _get_input_buffer(self, incremental_state: dict[str, Any]) -> State:
        return FairseqIncrementalState.get_incremental_state(self, incremental_state, _STATE) or {}

    def _set_input_buffer(self, incremental_state: dict[str, Any], buffer: State) -> dict[str, Any]:
        return FairseqIncrementalState.set_incremental_state(
            self, incremental_state, _STATE, buffer
        )

    # ---------------------------------------------------------------------- fairseq's hooks

    def set_beam_size(self, beam_size: int) -> None:
        """Set K, the number of consecutive rows that are beams of one sentence in generation.

        This setting saves memory and time. A wrong number is harmless, because rows with different
        keys are never treated as beams of one sentence.
        """
        self.beam_size = beam_size

    def make_generation_fast_(
        self,
        name: str = "",
        need_attn: Any = False,
        retain_dropout: bool = False,
        retain_dropout_modules: list[str] | None = None,
        **others: Any,
    ) -> None:
        """Prepare the module for generation, as fairseq does for its own modules.

        Args:
            name: name of this module in the model.
            need_attn: an alignment is printed (``--print-alignment``).
            retain_dropout: keep dropout in generation.
            retain_dropout_modules: names of the classes that keep dropout; default: all.
            others: arguments for other kinds of modules.
        """
        own = {type(self).__name__, "MultiheadAttention"}
        wanted = retain_dropout_modules is None or not own.isdisjoint(retain_dropout_modules)
        self._dropout_stays = bool(retain_dropout and wanted)
        self._aligns = bool(need_attn)
