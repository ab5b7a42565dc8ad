"""Turn the prompts of requests into what the model reads, within its limits."""

from __future__ import annotations

import threading
from typing import Any

import torch

from ..data.corpus.tokenizer_dictionary import num_predicted
from ..data.corpus.vocabulary import entry_texts
from ..data.dialog.line_format import TURN_SEPARATOR
from ..errors import UserError
from ..generation.session import Session
from ..generation.streaming import Prefix
from ..generation.writers import Kind
from ..modules.row_decoder import Piece
from .interface import GenerationRequest, RequestError
from .request_rules import check_text, refuse_prompt_logprobs, tokens_beside_prompt, tokens_within
from .rows import Row


class PromptReader:
    """Encode and check prompts; may be used from several threads.

    Args:
        session: the model and its task.

    Attributes:
        max_new_tokens: maximum number of tokens of a text, after the shortest prompt.
        max_positions: maximum number of tokens of a prompt and its text together.
        cache_positions: tokens that the cache of one text holds.
        num_predicted: number of tokens that the model can predict.
        entry_texts: the bytes of each token.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()  # the task's encoding is not made for several threads
        limits, positions = session.limits, session.model.max_decoder_positions()
        self._is_story = session.kind is Kind.STORY
        self._max_prompt = limits.max_prompt_tokens
        self.max_new_tokens = min(limits.max_new_tokens, positions)
        if self._is_story:
            self.max_positions, self.cache_positions = positions - 1, positions
        else:  # positions begin anew in every turn
            self.max_positions = self._max_prompt + self.max_new_tokens
            self.cache_positions = self.max_positions + 1  # with the BOS token
        dictionary = session.task.dictionary
        self.num_predicted = num_predicted(dictionary)
        self.entry_texts = entry_texts(dictionary)
        if not self._is_story:  # as in a prompt of one text; the mark of its end is no text
            task: Any = session.task
            self.entry_texts[task.ctx], self.entry_texts[task.sep] = TURN_SEPARATOR.encode(), b""
        # a longer text surely has too many tokens, and is not worth encoding
        self._max_bytes = (self._max_prompt + 1) * max(map(len, self.entry_texts))
        session.task.encode_text("")  # load the tokenizer now
        self._both_ways = bool(session.model.transformer.bidirectional_prefix)

    def read(self, request: GenerationRequest) -> tuple[Prefix, int]:
        """Return the prefix of a request on the CPU, and the maximum number of new tokens.

        Raises:
            RequestError: the prompt is no text, is too long, or leaves too little room.
        """
        prompt = request.prompt
        if self._is_story and not isinstance(prompt, str):
            raise RequestError("prompt: the model continues stories, one text, no turns", "prompt")
        turns = [prompt] if isinstance(prompt, str) else list(prompt)
        for turn in turns:
            check_text(turn, "prompt")
        num_turns = len(turns)
        turns = self._turns_that_fit(turns)
        try:
            with self._lock:
                if not self._is_story:
                    self._check_query(turns)
                prefix = self._session.writer.read(
                    turns[0] if self._is_story else turns, torch.device("cpu")
                )
        except RequestError:
            raise
        except UserError as error:
            raise RequestError(f"prompt: {error}", "prompt") from None
        length = prefix.net_input["src_tokens"].size(1) - 1  # without the BOS token
        if request.options.prompt_logprobs:
            self._check_scored(prefix, is_whole=len(turns) == num_turns)
        if self._is_story:
            return prefix, tokens_beside_prompt(request.options, length, self.max_positions)
        rule = "the model was trained on no longer replies"
        return prefix, tokens_within(request.options, self.max_new_tokens, rule)

    def _turns_that_fit(self, turns: list[str]) -> list[str]:
        """Return the newest turns, from the first on that is not by itself too long.

        Raises:
            RequestError: there is no turn, or the newest one is too long.
        """
        if not turns:
            raise RequestError("prompt: there are no turns: send at least one", "prompt")
        for number, turn in enumerate(reversed(turns)):
            size = len(turn.encode())
            if size <= self._max_bytes:
                continue
            if number:
                return turns[len(turns) - number :]
            raise RequestError(
                f"prompt of {size} bytes: the model reads at most {self._max_prompt} tokens: "
                "shorten it",
                "prompt",
            )
        return turns

    def _check_query(self, turns: list[str]) -> None:
        """Refuse a newest turn that would be cut; older ones may be."""
        task: Any = self._session.task
        count = len(task.encode_turns(turns[-1:])) - 1
        if count > self._max_prompt:
            raise RequestError(
                f"prompt: the newest turn has {count} tokens, and the model reads at most "
                f"{self._max_prompt}: shorten it",
                "prompt",
            )

    def _check_scored(self, prefix: Prefix, is_whole: bool) -> None:
        """Refuse the log-probabilities of a prompt that has none, or of one that was cut.

        Args:
            prefix: the prompt.
            is_whole: whether it has all turns.
        """
        net_input = prefix.net_input
        if self._reads_both_ways(prefix):
            refuse_prompt_logprobs(
                "the model reads prompts in both directions, and does not predict their tokens"
            )
        read = net_input["src_tokens"]
        if not is_whole or net_input.get("context_tokens", read).size(1) > read.size(1):
            raise RequestError(
                f"prompt: the model leaves out its oldest turns and reads {read.size(1) - 1} "
                "tokens, but echo with logprobs needs all of it: send fewer turns",
                "prompt",
            )

    def _reads_both_ways(self, prefix: Prefix) -> bool:
        found = prefix.net_input.get("bidirectional")
        return self._both_ways if found is None else found

    def piece(self, row: Row, place: int, longest: int) -> Piece:
        """Return the next tokens of a prompt to be read.

        Args:
            row: the request.
            place: its row in the cache.
            longest: maximum number of tokens, unless the prompt is read in both directions.
        """
        net_input = row.prefix.net_input
        both_ways = self._reads_both_ways(row.prefix)
        start, length = row.num_read, row.prefix_length
        end = length if both_ways else min(start + longest, length)
        device = self._session.device

        def part(name: str) -> torch.Tensor | None:
            values: Any = net_input.get(name)
            return None if values is None else values[0, start:end].to(device)

        tokens, positions = part("src_tokens"), part("positions")
        assert tokens is not None
        if positions is None:
            positions = torch.arange(start, end, device=device)
        return Piece(
            place,
            start,
            tokens,
            positions,
            part("segments"),
            both_ways,
            end == length,
            row.needs_all_features,
        )
