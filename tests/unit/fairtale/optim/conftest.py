"""Add the options of fine-tuning to fairseq before these tests import what reads them."""

from fairtale import compat, options
from fairtale.optim import finetuning_hooks

compat.install()
options.install()
finetuning_hooks.install()
