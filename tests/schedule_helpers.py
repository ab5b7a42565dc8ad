"""An optimizer for tests of learning-rate schedules."""

from fairseq.optim import FairseqOptimizer


class Optimizer(FairseqOptimizer):
    """An optimizer that is only a learning rate."""

    def __init__(self):
        self.lr = None

    def set_lr(self, lr):
        self.lr = lr

    def get_lr(self):
        return self.lr
