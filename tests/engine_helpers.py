"""Requests to engines, their answers, and a tiny trained model."""

import threading

import torch
import torch.nn.functional as F

from fairtale.generation.session import Session
from fairtale.serving.interface import GenerationRequest, SamplingOptions
from tests.dialog_helpers import dialog_dictionary, dialog_model, dialog_task
from tests.helpers import build_transformer, tiny_dictionary, tiny_model, tiny_task
from user_dir.models.gpt import GPTModel

PATIENCE = 120  # seconds after which a test fails


class Answer:
    """What an engine delivers for one request."""

    def __init__(self, on_part=None):
        self.parts = []
        self.ticket = None
        self._on_part = on_part
        self._done = threading.Event()

    def __call__(self, delta):
        assert not self._done.is_set(), "a part follows the last one"
        self.parts.append(delta)
        if self._on_part is not None:
            self._on_part(self)
        if delta.finish_reason is not None:
            self._done.set()

    @property
    def last(self):
        """The last part, as soon as it is there."""
        assert self._done.wait(PATIENCE), "the text has no end"
        return self.parts[-1]

    @property
    def reason(self):
        return self.last.finish_reason

    @property
    def text(self):
        assert self.last.error is None, self.last.error
        return "".join(part.text for part in self.parts)

    @property
    def num_tokens(self):
        assert self.last
        return sum(part.num_tokens for part in self.parts)

    @property
    def logprobs(self):
        assert self.last
        return [token for part in self.parts for token in part.logprobs]


def ask(engine, prompt, on_part=None, **options):
    """Submit a request, and return its answer, which may not be complete."""
    answer = Answer(on_part)
    answer.ticket = engine.submit(GenerationRequest(prompt, SamplingOptions(**options)), answer)
    return answer


def story_session(folder, positions=64, num_words=40, seed=3, **options):
    """Return a session with a random model that continues stories."""
    dictionary = tiny_dictionary(num_words)
    task = tiny_task(dictionary, positions, data=str(folder))
    return Session(task, tiny_model(dictionary, positions, seed, **options))


def dialog_session(folder, unilm=True, seed=3, **options):
    """Return a session with a random model that answers dialogs."""
    dictionary = dialog_dictionary(40)
    task = dialog_task(dictionary, data=str(folder), seed=1, tensorboard_logdir=None)
    task._options["seq2seq_prob"] = float(unilm)
    return Session(task, dialog_model(dictionary, unilm, seed, **options))


def trained_session(folder, positions=64, num_words=60, num_updates=120):
    """Return a session with a model that has learnt a language with many equally likely words.

    Each word is followed by one of three others, and a tenth of the words by the end.
    """
    dictionary = tiny_dictionary(num_words)
    generator = torch.Generator().manual_seed(1)
    successors = torch.randint(4, 4 + num_words, (4 + num_words, 3), generator=generator)
    successors[torch.randint(4, 4 + num_words, (num_words // 10,), generator=generator)] = 2
    transformer = build_transformer(
        len(dictionary), 1, positions, embed_dim=32, num_heads=4, ffn_dim=64
    )
    optimizer = torch.optim.Adam(transformer.parameters(), lr=5e-3)
    for _ in range(num_updates):
        rows = torch.zeros(16, 25, dtype=torch.long)
        rows[:, 1] = torch.randint(4, 4 + num_words, (16,), generator=generator)
        for t in range(2, 25):
            choice = torch.randint(3, (16,), generator=generator)
            rows[:, t] = successors[rows[:, t - 1], choice]
        logits = transformer.logits(transformer(rows[:, :-1]))
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    task = tiny_task(dictionary, positions, data=str(folder))
    return Session(task, GPTModel(dictionary, transformer).eval())
