"""Count the words of a text from its tokens, for the perplexity per word."""

import re

import torch
from fairseq.data import Dictionary
from torch import Tensor

from .vocabulary import entry_texts, has_sub_words

_SPACES = b" \t\n\r\x0b\x0c"  # where bytes.split() splits


class WordCounter:
    """Count the words that begin in targets.

    Words are what white space of ASCII separates, as ``text.encode().split()`` splits. A word
    begins at a byte that is no white space, after white space or at the beginning of a text. So
    each word is counted at exactly one token, also if a text is cut into blocks anywhere. In a
    vocabulary without sub-word pieces, each entry is a word.

    Args:
        dictionary: fairseq's dictionary.
    """

    def __init__(self, dictionary: Dictionary) -> None:
        texts = entry_texts(dictionary)
        # words that begin after the first byte of an entry
        self._inside = torch.tensor([len(re.findall(rb"\s(?=\S)", text)) for text in texts])
        self._begins = torch.tensor([text[:1] not in _SPACES for text in texts])
        # What follows an entry without text, such as <s>, begins a text.
        self._ends = torch.tensor([text[-1:] in _SPACES for text in texts])
        if not has_sub_words(dictionary):
            self._ends[dictionary.unk()] = True  # an unknown word

    def count(self, source: Tensor, target: Tensor) -> int:
        """Return the number of words that begin in ``target``.

        Args:
            source: int64 [T], the token before each target; BOS before the first one of a text.
            target: int64 [T].
        """
        begins = self._begins[target] & self._ends[source]
        return int(self._inside[target].sum() + begins.sum())
