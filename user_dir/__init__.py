"""Register the tasks, models, criterions and schedules of ``--user-dir user_dir`` on import."""

# isort: off
from fairseq.dataclass.initialize import hydra_init

from fairtale import compat, options
from fairtale.distributed import trainer_hooks as sharded_training
from fairtale.generation.options import check_command as check_decoding
from fairtale.optim import finetuning_hooks, multi_tensor

# The work-arounds for faults of fairseq must be installed before fairseq is used.
compat.install()
options.install()
options.add_step(check_decoding)
sharded_training.install()  # before the hooks that divide the parameters into groups
finetuning_hooks.install()
multi_tensor.install()
hydra_init()  # the hooks have added options to fairseq's config, which Hydra must know

# fairseq itself imports tasks/ and models/ only, and not if the package has already been imported
# (in a test or a notebook), so all modules are imported here.
from .bpe import byte_level  # noqa: E402
from .criterions import l0_gated, label_smoothed_kl, unlikelihood  # noqa: E402
from .models import gpt, transformer_hcg, unilm_seq2seq  # noqa: E402
from .optim.lr_scheduler import reduce_lr_on_validation, slanted_triangular  # noqa: E402
from .tasks import dialog_lm, dialog_nat, story_lm, wmt16_translation  # noqa: E402
