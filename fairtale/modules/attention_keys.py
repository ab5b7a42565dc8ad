"""Share the keys of an attention among the beams of a sentence, and handle their padding."""

from __future__ import annotations

import torch
from torch import Tensor


def share_beams(
    key: Tensor, value: Tensor, key_padding_mask: Tensor | None, beams: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keep one of every K consecutive rows if the K rows are equal, as for beams of a sentence.

    Args:
        key, value: [S, B * K, any]. The values of equal keys must be equal.
        key_padding_mask: [B * K, S] or None.
        beams: K, at least 1.

    Returns:
        key, value [S, B, any] and mask [B, S]; or the arguments, if any of the K rows differ.
    """
    given = key, value, key_padding_mask
    if beams == 1 or key.size(1) % beams:
        return given
    groups = key.view(key.size(0), -1, beams, key.size(2))  # [S, B, K, C]
    if not (groups == groups[:, :, :1]).all():
        return given
    if key_padding_mask is not None:
        padding = key_padding_mask.view(-1, beams, key_padding_mask.size(1))  # [B, K, S]
        if not (padding == padding[:, :1]).all():
            return given
        key_padding_mask = key_padding_mask[::beams]
    return key[:, ::beams], value[:, ::beams], key_padding_mask


def append_padding(
    old: Tensor | None, new: Tensor | None, rows: int, past: int, count: int
) -> Tensor | None:
    """Concatenate the padding masks of old and new keys.

    Args:
        old: mask of the old keys [B, past], or None without padding.
        new: mask of the new keys [B, count], or of the last of them, or None without padding.
        rows: B.
        past: number of old keys.
        count: number of new keys.

    Returns:
        bool [B, past + count], or None without padding.
    """
    like = new if old is None else old
    if like is None:
        return None
    mask = torch.zeros(rows, past + count, dtype=torch.bool, device=like.device)
    if old is not None:
        mask[:, :past] = old.bool()
    if new is not None:
        mask[:, past + count - new.size(1) :] = new.bool()
    return mask


def as_bias(
    key_padding_mask: Tensor | None, attn_mask: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """Combine masks into a bias for the scores [B, H, T, S].

    Args:
        key_padding_mask: [B, S], True (or 1) on padding, or None.
        attn_mask: [T, S], a bias, or bool with True on forbidden keys, or None.
        dtype: dtype of the bias.

    Returns:
        [B, 1, 1 or T, S] or [1, 1, T, S], or None without masks.
    """

    def to_bias(mask: Tensor) -> Tensor:
        if mask.dtype not in (torch.bool, torch.uint8):
            return mask.to(dtype)
        zeros = torch.zeros_like(mask, dtype=dtype)
        return zeros.masked_fill(mask.bool(), -torch.inf)

    bias = None if attn_mask is None else to_bias(attn_mask)
    if key_padding_mask is None:
        return None if bias is None else bias[None, None]
    padding = to_bias(key_padding_mask.bool())[:, None, None]
    return padding if bias is None else padding + bias
