"""Talk to an engine of the service without HTTP."""

import threading

from fairtale.serving.interface import GenerationRequest, SamplingOptions

SECONDS = 60  # a guard against hanging, nothing is timed


class Answer:
    """Collect the parts of a text, and wait for its end.

    Args:
        hold: hold up the engine's thread at the first part until :meth:`release`.
    """

    def __init__(self, hold=False):
        self.deltas = []
        self.ticket = None
        self.held, self._free, self._done = threading.Event(), threading.Event(), threading.Event()
        if not hold:
            self._free.set()

    def __call__(self, delta):
        self.deltas.append(delta)
        self.held.set()
        assert self._free.wait(SECONDS)
        if delta.finish_reason is not None:
            self._done.set()

    def release(self):
        """Let the engine go on."""
        self._free.set()

    def wait(self):
        """Wait for the end, check the rules of deltas, and return this answer."""
        assert self._done.wait(SECONDS), self.deltas
        reasons = [delta.finish_reason for delta in self.deltas]
        assert reasons[-1] is not None and not any(reasons[:-1]), reasons
        return self

    @property
    def text(self):
        return "".join(delta.text for delta in self.deltas)

    @property
    def num_tokens(self):
        return sum(delta.num_tokens for delta in self.deltas)

    @property
    def logprobs(self):
        return [entry for delta in self.deltas for entry in delta.logprobs]

    @property
    def reason(self):
        return self.deltas[-1].finish_reason

    @property
    def error(self):
        return self.deltas[-1].error


def submit(engine, prompt, hold=False, **options):
    """Send a request at temperature 0 unless told otherwise, and return its :class:`Answer`."""
    answer = Answer(hold)
    options = SamplingOptions(**{"temperature": 0.0, **options})
    answer.ticket = engine.submit(GenerationRequest(prompt, options), answer)
    return answer


def ask(engine, prompt, **options):
    """Send a request, and wait for its answer."""
    return submit(engine, prompt, **options).wait()
