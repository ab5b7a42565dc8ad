"""The one place for work-arounds of fairseq, NumPy and torch.

Each cure says which fault it answers and which version makes it needless. ``install()``
runs once, when the package is imported; with ``--user-dir`` that is before fairseq
parses its options. Every cure is a small override of one function; nothing on disk is
changed. The faults are those of fairseq-fixed 0.12.3.1 (upstream's last main branch).
"""

import argparse
import atexit
import errno
import functools
import glob
import logging
import os
import pickle
import re
import shutil
import sys
import threading
import warnings
import weakref
import zipfile
from types import SimpleNamespace

import numpy as np
import torch
from fairseq import checkpoint_utils, file_io, ngram_repeat_block, options
from fairseq.data import data_utils, iterators
from fairseq.tasks import FairseqTask
from fairseq.tasks.language_modeling import LanguageModelingTask

from .errors import UserError, check_options, check_words, install_error_hook, short_usage_error
from .modules.ngram_blocking import block_repeated_ngrams

logger = logging.getLogger(__name__)

# ---------------------------------------------------------------------------- NumPy 2


def cure_numpy_names():
    """NumPy 2 dropped ``np.compat`` and ``percentile(interpolation=)``.

    Needless once fairseq says ``np.int64`` and ``method=``.
    """
    if not hasattr(np, "compat"):
        np.compat = SimpleNamespace(long=int)

    def get_buckets(sizes, num_buckets):
        marks = np.linspace(0, 100, num_buckets + 1)
        return np.unique(np.percentile(sizes, marks, method="lower")[1:])

    data_utils.get_buckets = get_buckets


# ---------------------------------------------------------------------- silent faults


def cure_lost_batches():
    """fairseq drops the last batch of a split when its size is no multiple of 8.

    ``data_utils.batch_by_size`` ends with ``b = b[:-1]``: of 100 sentences 96 are
    trained, validated or generated, without a word. The batches made are the original
    ones; what was cut off is put back. Needless once upstream drops those two lines.
    """
    original = data_utils.batch_by_size

    @functools.wraps(original)
    def batch_by_size(indices, *args, **kwargs):
        if not isinstance(indices, np.ndarray):
            indices = np.fromiter(indices, dtype=np.int64, count=-1)
        if len(indices) == 0:
            return []
        batches = list(original(indices, *args, **kwargs))
        covered = sum(len(batch) for batch in batches)
        fixed_shapes = kwargs.get("fixed_shapes") or (len(args) > 5 and args[5])
        if not fixed_shapes and covered < len(indices):
            batches.append(indices[covered:])
        return batches

    data_utils.batch_by_size = batch_by_size


def cure_ngram_blocking():
    """``--no-repeat-ngram-size`` blocks nothing: fairseq compares the padding.

    ``tokens`` is the whole buffer, so its last columns are padding until the very end.
    Ours is vectorised and runs on any device. Needless once upstream slices by step.
    """

    def forward(self, tokens, lprobs, bsz, beam_size, step):
        # column 0 is the begin mark, which is no word: with n = 1 it would forbid the end
        return block_repeated_ngrams(tokens[:, 1 : step + 1], lprobs, self.no_repeat_ngram_size)

    ngram_repeat_block.NGramRepeatBlock.forward = forward


def cure_empty_evaluation():
    """``fairseq-eval-lm`` prints "Perplexity: 1.00" after it has scored nothing."""
    original = LanguageModelingTask.eval_lm_dataloader

    @functools.wraps(original)
    def eval_lm_dataloader(self, dataset, *args, **kwargs):
        return refuse_empty_evaluation(original(self, dataset, *args, **kwargs), len(dataset))

    LanguageModelingTask.eval_lm_dataloader = eval_lm_dataloader


def refuse_empty_evaluation(batches, num_samples):
    """Return ``batches`` unless there are none.

    Raises:
        UserError: not one of ``num_samples`` samples is left to be scored.
    """
    if len(batches) == 0:
        raise UserError(
            f"0 of {num_samples} samples are left to score: each is empty or longer than the "
            "model's positions; set --tokens-per-sample to at most those positions"
        )
    return batches


def cure_bf16_option():
    """``--bf16`` on the command line turns on ``--tpu`` and fails without torch_xla."""

    def no_tpu(args, argv):
        if getattr(args, "bf16", False) and "--tpu" not in argv:
            args.tpu = False

    _after_parsing(no_tpu)


def cure_torchrun():
    """Plain ``torchrun fairseq-train`` trains independent copies into one folder.

    fairseq reads the world size from the environment only if several GPUs are visible to
    each process, and divides by zero without any. Needless once ``infer_init_method``
    looks at the environment first.
    """
    _after_parsing(_join_torchrun)


def _join_torchrun(args, argv):
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    launched = all(k in os.environ for k in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"))
    if not launched or not hasattr(args, "distributed_init_method") or not hasattr(args, "arch"):
        return
    if args.distributed_init_method is not None:
        return  # the user has said how to meet
    args.distributed_no_spawn = True
    args.distributed_world_size = world_size
    args.distributed_rank = int(os.environ["RANK"])
    args.device_id = int(os.environ["LOCAL_RANK"])
    if world_size > 1:
        args.distributed_init_method = "env://"
    if not torch.cuda.is_available() or getattr(args, "cpu", False):
        if "--distributed-backend" not in argv:
            args.distributed_backend = "gloo"
        if "--ddp-backend" not in argv:  # pytorch_ddp is given device ids, which a CPU lacks
            args.ddp_backend = "legacy_ddp"


def cure_command_lines():
    """Mistakes end in a traceback, in two hundred lines or in nothing; ``--task`` is forgotten.

    Without it a checkpoint's command assumes translation, or fails. The checkpoint knows its
    task, so it is asked.
    """
    original = options.parse_args_and_arch

    @functools.wraps(original)
    def parse_args_and_arch(parser, input_args=None, *args, **kwargs):
        argv = list(sys.argv[1:] if input_args is None else input_args)
        parser.error = functools.partial(short_usage_error, parser)
        check_words(parser, argv)
        name = _task_of_checkpoint(argv)
        if name is not None:
            input_args = argv + ["--task", name]
        return original(parser, input_args, *args, **kwargs)

    options.parse_args_and_arch = parse_args_and_arch
    _after_parsing(lambda args, argv: check_options(args, torch.cuda.is_available()))


def _task_of_checkpoint(argv):
    if any(word == "--task" or word.startswith("--task=") for word in argv):
        return None
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--path", default=None)
    path = finder.parse_known_args(argv)[0].path
    if path is None or "--arch" in argv or "://" in path or "--checkpoint-shard-count" in argv:
        return None
    path = path.split(os.pathsep)[0]
    if not os.path.isfile(path):
        raise UserError(f"--path {path}: no such file; name the checkpoint of a trained model")
    state = read_checkpoint(path)
    from fairseq.tasks import TASK_REGISTRY

    task = (state.get("cfg") or {}).get("task") or state.get("args") or {}
    task = task if isinstance(task, dict) else vars(task)
    name = task.get("_name") or task.get("task")
    return name if name in TASK_REGISTRY else None


def _after_parsing(amend):
    """Let ``amend(args, argv)`` correct what fairseq's option parser returns."""
    original = options.parse_args_and_arch

    @functools.wraps(original)
    def parse_args_and_arch(parser, input_args=None, *args, **kwargs):
        result = original(parser, input_args, *args, **kwargs)
        namespace = result[0] if isinstance(result, tuple) else result
        amend(namespace, list(sys.argv[1:] if input_args is None else input_args))
        return result

    options.parse_args_and_arch = parse_args_and_arch


# ------------------------------------------------------------------------ checkpoints


def cure_checkpoint_loading():
    """torch >= 2.6 loads weights only, and refuses what fairseq's checkpoints hold.

    Exactly the harmless types are declared safe: option namespaces and NumPy numbers and
    arrays. The protection itself stays on, also against ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD``.
    """
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    dtypes = [type(np.dtype(code)) for code in "?bBhHiIlLqQefd"]
    core = np._core.multiarray
    torch.serialization.add_safe_globals(
        [argparse.Namespace, np.dtype, np.ndarray, core.scalar, core._reconstruct, *dtypes]
    )
    original = checkpoint_utils.load_checkpoint_to_cpu

    @functools.wraps(original)
    def load_checkpoint_to_cpu(path, *args, **kwargs):
        with explained_checkpoint_errors(path):
            return original(path, *args, **kwargs)

    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu


class explained_checkpoint_errors:  # noqa: N801  (used as a context manager)
    """Turn torch's many ways to say "not a checkpoint" into one line."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        pass

    def __exit__(self, kind, error, _):
        if isinstance(error, pickle.UnpicklingError):
            found = re.search(r"GLOBAL (\S+)|Unsupported operand \d+", str(error))
            reason = "unreadable" if found is None else found[1] or found[0]
            raise UserError(
                f"checkpoint {self.path}: refused, for it is damaged or holds objects besides "
                f"plain weights and settings, which could run code ({reason})"
            ) from error
        text = str(error)
        cut = isinstance(error, EOFError) or (isinstance(error, RuntimeError) and "zip" in text)
        if cut or (isinstance(error, OSError) and error.errno == errno.EINVAL):
            raise UserError(
                f"checkpoint {self.path}: cut short or not a checkpoint "
                f"({os.path.getsize(self.path)} bytes); use an older one"
            ) from error
        if isinstance(error, KeyError):
            raise UserError(f"checkpoint {self.path}: no fairseq model ({error} is missing)")
        return False


def read_checkpoint(path):
    """Return the raw content of a checkpoint, weights mapped and not copied.

    Raises:
        UserError: the file is no checkpoint, or holds more than weights and settings.
    """
    with explained_checkpoint_errors(path):
        mapped = zipfile.is_zipfile(path)  # what torch < 1.6 has written is no such file
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    if not isinstance(state, dict):
        raise UserError(f"checkpoint {path}: holds a {type(state).__name__}, no fairseq model")
    return state


def cure_checkpoint_copies():
    """The first file of a save is renamed into place, but its copies are written in place.

    A kill would leave half a file named ``checkpoint_last.pt``. Copies are now renamed as well,
    and a new training clears what a killed one has left. Needless once ``PathManager`` does so.
    """

    def copy(src_path, dst_path, overwrite=False):
        if file_io.IOPathManager:
            return file_io.IOPathManager.copy(src_path, dst_path, overwrite=overwrite)
        partial = dst_path + ".tmp"
        shutil.copyfile(src_path, partial)
        os.replace(partial, dst_path)
        return dst_path

    file_io.PathManager.copy = staticmethod(copy)
    original = checkpoint_utils.verify_checkpoint_directory

    @functools.wraps(original)
    def verify_checkpoint_directory(save_dir):
        original(save_dir)
        for stale in glob.glob(os.path.join(glob.escape(save_dir), "*.pt.tmp")):
            logger.warning("removing %s, left by a training that was killed", stale)
            os.remove(stale)

    checkpoint_utils.verify_checkpoint_directory = verify_checkpoint_directory


def cure_foreign_dictionaries():
    """Training goes on from a checkpoint of another dictionary if that has the same size.

    A task with ``check_checkpoint(task_state)`` is asked before fairseq loads the weights.
    """
    original = checkpoint_utils.load_checkpoint

    @functools.wraps(original)
    def load_checkpoint(cfg, trainer, **kwargs):
        load, check = trainer.load_checkpoint, getattr(trainer.task, "check_checkpoint", None)

        def checked(filename, *args, **kwargs):
            if check is not None and os.path.isfile(filename):
                check(read_checkpoint(filename).get("task_state") or {})
            return load(filename, *args, **kwargs)

        trainer.load_checkpoint = checked
        return original(cfg, trainer, **kwargs)

    checkpoint_utils.load_checkpoint = load_checkpoint


# -------------------------------------------------------------------------- loud faults


def cure_buffer_thread():
    """A data thread still running at exit ends a finished training with status 134.

    The daemon thread is inside C++ code when the interpreter goes away. It is now asked to
    stop, and waited for. Needless once ``BackgroundConsumer`` can be stopped.
    """
    consumers, closing = weakref.WeakSet(), threading.Event()

    def run(self):
        consumers.add(self)
        if self.cuda_device is not None:
            torch.cuda.set_device(self.cuda_device)

        def put(item):
            while not closing.is_set():
                try:
                    return self._queue.put(item, timeout=0.1)
                except iterators.queue.Full:
                    continue

        try:
            for item in self._source:
                put(item)
                self.count += 1
                if closing.is_set() or (self._max_len is not None and self.count >= self._max_len):
                    break
            put(iterators._sentinel)
        except Exception as error:
            put(error)

    def close():
        closing.set()
        for consumer in list(consumers):
            consumer.join(timeout=10)

    iterators.BackgroundConsumer.run = run
    atexit.register(close)


def cure_data_workers():
    """Each data worker that has done its work holds training up for five seconds.

    fairseq's iterators end in cycles. The garbage collector closes the queue to a worker
    before torch can dismiss the worker through it; and a worker forked meanwhile inherits
    the garbage ("can only test a child process"). Needless once iterators end otherwise.
    """
    cls = torch.utils.data.dataloader._MultiProcessingDataLoaderIter
    start, dismiss = cls.__init__, cls._shutdown_workers

    def __init__(self, *args, **kwargs):
        self._owner = os.getpid()
        start(self, *args, **kwargs)
        # what is referred to from outside is not closed before its iterator
        queues = (self._index_queues, self._worker_result_queue)
        weakref.finalize(self, lambda _: None, queues).atexit = False

    def _shutdown_workers(self):
        if self._owner == os.getpid():
            dismiss(self)

    cls.__init__, cls._shutdown_workers = __init__, _shutdown_workers


def cure_prompt_encoding():
    """Bytes of a prompt that are not UTF-8 shall reach the task, which names their line."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")


def cure_import_logging():
    """Importing fairseq turns on DEBUG logging on stderr; each prompt is given four log lines.

    ``wav2vec2_classification.py`` calls ``basicConfig(level=DEBUG)`` when imported, before most
    commands say how they want to log. They are given what they ask for in vain.
    """
    if os.environ.get("LOGLEVEL", "").upper() != "DEBUG":
        logging.getLogger("fairseq.tasks.fairseq_task").setLevel(logging.WARNING)
    root = logging.getLogger()
    handler = root.handlers[0] if len(root.handlers) == 1 else None
    if root.level != logging.DEBUG or getattr(handler, "stream", None) is not sys.stderr:
        return  # somebody has set up logging on purpose
    root.setLevel(os.environ.get("LOGLEVEL", "INFO").upper())
    form = "%(asctime)s | %(levelname)s | %(name)s | %(message)s"
    handler.setFormatter(logging.Formatter(form, "%Y-%m-%d %H:%M:%S"))
    handler.setStream(sys.stdout)


def cure_known_warnings():
    """Warnings about fairseq's own code, which its users can do nothing about."""
    for text in (
        r"[\s\S]*version_base parameter is not specified",
        r"'pin_memory' argument is set as true but no accelerator",
        r"`torch.cuda.amp.autocast\(args...\)` is deprecated",
        r"[\s\S]*weight_norm`? is deprecated",
        r"hydra.experimental.\w+\(\) is no longer experimental",
        r"[\s\S]*In 'config': Usage of deprecated keyword in package header",
        r"[\s\S]*'config' is validated against ConfigStore schema",
        r"[\s\S]*The strict flag in the compose API is deprecated",
    ):
        warnings.filterwarnings("ignore", message=text)


def install_validation_hook():
    """Let a learning-rate scheduler hear of every validation, not of epochs' ends only.

    fairseq calls ``lr_scheduler.step`` once an epoch; with ``--validate-interval-updates``
    all other validations pass unheard. A scheduler with a method ``step_validation(loss)``
    gets the first subset's loss after each.

    Raises:
        UserError: not called from ``fairseq-train``, so nobody would ever call the scheduler.
    """
    main = sys.modules.get("__main__")
    is_main = getattr(getattr(main, "__spec__", None), "name", None) == "fairseq_cli.train"
    modules = [sys.modules.get("fairseq_cli.train"), main if is_main else None]
    modules = [module for module in modules if module is not None]
    if not modules:
        raise UserError("this scheduler follows validations: it works in fairseq-train only")
    for module in modules:
        original = module.validate
        if getattr(original, "tells_scheduler", False):
            continue

        @functools.wraps(original)
        def validate(cfg, trainer, *args, _original=original, **kwargs):
            losses = _original(cfg, trainer, *args, **kwargs)
            step = getattr(trainer.lr_scheduler, "step_validation", None)
            if step is not None and losses and losses[0] is not None:
                step(losses[0])
            return losses

        validate.tells_scheduler = True
        module.validate = validate


def install():
    """Apply every cure, once."""
    if getattr(FairseqTask, "fairtale_cured", False):
        return
    FairseqTask.fairtale_cured = True
    cure_numpy_names()
    cure_lost_batches()
    cure_ngram_blocking()
    cure_empty_evaluation()
    cure_bf16_option()
    cure_torchrun()
    cure_command_lines()
    cure_checkpoint_loading()
    cure_checkpoint_copies()
    cure_foreign_dictionaries()
    cure_buffer_thread()
    cure_data_workers()
    cure_prompt_encoding()
    cure_import_logging()
    cure_known_warnings()
    install_error_hook()


install()
