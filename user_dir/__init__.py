"""The plug-in: importing this package registers what ``--user-dir user_dir`` adds to fairseq."""

# isort: off
from fairtale import compat, options

# Nothing of fairseq may be used before its faults are cured.
compat.install()
options.install()

# fairseq imports tasks/ and models/ by itself, but not when the package was imported
# before (a test, a notebook), and never the other registries: so all are named here.
from .criterions import l0_gated, label_smoothed_kl, unlikelihood  # noqa: E402
from .models import gpt, transformer_hcg, unilm_seq2seq  # noqa: E402
from .optim.lr_scheduler import reduce_lr_on_validation  # noqa: E402
from .tasks import dialog_lm, dialog_nat, story_lm, wmt16_translation  # noqa: E402
