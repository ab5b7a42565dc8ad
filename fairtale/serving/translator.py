"""Load a translation model, and convert between text and tokens as fairseq's commands do."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import UserError
from ..plugin import register
from .token_names import TokenNames

OURS, FAIRSEQS = "wmt16_translation", "translation"  # names of tasks
# settings of fairseq's own task that its checkpoints hand over to ours
_SHARED = (
    "data",
    "source_lang",
    "target_lang",
    "left_pad_source",
    "left_pad_target",
    "max_source_positions",
    "max_target_positions",
)
# leave out what validation needs
_NO_VALIDATION = {"eval_bleu": False, "eval_bleu_sentences": 0, "sample_translations": 0}


class SourceBatch(NamedTuple):
    """Sentences as input of the encoder."""

    net_input: dict[str, Tensor]  # src_tokens int64 [B, S], src_lengths int64 [B]
    order: list[int]  # for each row, the index of its sentence in the list that was batched


class Translator:
    """A model with its task, its tokenizer and its dictionaries.

    Args:
        task: ``wmt16_translation``.
        model: its model, in evaluation mode.
    """

    def __init__(self, task: Any, model: Any) -> None:
        from fairseq.utils import resolve_max_positions

        from ..data.corpus.vocabulary import entry_texts

        self.task = task
        self.model = model
        none = Namespace(tokenizer=None, bpe=None)
        self._stages: list[Callable[[str], str]] = [
            tool.encode
            for tool in (task.build_tokenizer(none), task.build_bpe(none))
            if tool is not None
        ]
        self.device: torch.device = next(model.parameters()).device
        self.tgt_dict = task.target_dictionary
        self.token_names = TokenNames(entry_texts(self.tgt_dict), self.tgt_dict.symbols)
        longest = resolve_max_positions(task.max_positions(), model.max_positions())
        self.max_source = int(longest[0]) - 1  # without the EOS token
        self.max_target = int(model.max_decoder_positions()) - 1

    @classmethod
    def load(cls, path: str, data: str | None = None, cpu: bool = False) -> Translator:
        """Load a checkpoint, without running code that it may contain.

        Args:
            path: checkpoint of ``wmt16_translation``, or of fairseq's ``translation``, if the data
                folder has the files of a tokenizer.
            data: folder with the dictionaries and the tokenizer; None for the folder that the model
                was trained on.
            cpu: use no GPU, even if one is available.

        Raises:
            UserError: the checkpoint is damaged, belongs to another task or to other data, or its
                tokenizer is not known.
            OSError: the file does not exist.
        """
        register()
        from fairseq import checkpoint_utils, tasks
        from omegaconf import OmegaConf

        overrides = {**_NO_VALIDATION, **({"data": data} if data else {})}
        state = checkpoint_utils.load_checkpoint_to_cpu(path, overrides)
        config: Any = OmegaConf.to_container(_task_config(state), enum_to_str=True)
        name = config.get("_name")
        if name == FAIRSEQS:
            config = {key: config[key] for key in _SHARED if config.get(key) is not None}
            config |= {"_name": OURS, "tensorboard_logdir": None, **_NO_VALIDATION}
        elif name != OURS:
            raise UserError(f"{path}: trained with the task {name}, not {OURS} or {FAIRSEQS}")
        task = tasks.setup_task(OmegaConf.create(config), from_checkpoint=True)
        models, _, _ = checkpoint_utils.load_model_ensemble_and_task([path], task=task, state=state)
        model = models[0].eval()
        model.make_generation_fast_(need_attn=False)
        if torch.cuda.is_available() and not cpu:
            model.cuda()
        translator = cls(task, model)
        _check_tokenizer(path, name, state.get("task_state") or {}, translator)
        return translator

    @property
    def knows_tokenizer(self) -> bool:
        """Return whether text is more than words with spaces between them."""
        return bool(self._stages)

    def encode(self, line: str) -> Tensor:
        """Return the tokens of a line with the EOS token, int64 [S]; any thread may call this."""
        for stage in self._stages:
            line = stage(line)
        tokens: Tensor = self.task.source_dictionary.encode_line(line, add_if_not_exist=False)
        return tokens.long()

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the detokenised text of a translation."""
        text: str = self.task.plain_text(torch.tensor(tokens, dtype=torch.int64))
        return text

    def batch(self, sentences: Sequence[Tensor]) -> SourceBatch:
        """Return sentences as input of the encoder, on the device of the model.

        Args:
            sentences: tokens with the EOS token, each int64 [S].
        """
        lengths = [len(tokens) for tokens in sentences]
        dataset = self.task.build_dataset_for_inference(list(sentences), lengths)
        batch = dataset.collater([dataset[i] for i in range(len(dataset))])
        net_input = {
            name: batch["net_input"][name].to(self.device) for name in ("src_tokens", "src_lengths")
        }
        return SourceBatch(net_input, batch["id"].tolist())


def _task_config(state: dict[str, Any]) -> Any:
    """Return the config of the task in a checkpoint, also of an older fairseq."""
    if state.get("args") is not None:
        from fairseq.dataclass.utils import convert_namespace_to_omegaconf

        return convert_namespace_to_omegaconf(state["args"]).task
    return state["cfg"].task


def _check_tokenizer(
    path: str, name: str, task_state: dict[str, Any], translator: Translator
) -> None:
    """Refuse a checkpoint whose text would be encoded in another way than in its training."""
    missing = task_state.get("pieces")
    none = Namespace(tokenizer=None, bpe=None)
    if missing and translator.task.build_bpe(none) is None:
        raise UserError(
            f"{path}: its tokenizer {missing} does not exist; give the folder that has it by --data"
        )
    if name == FAIRSEQS and not translator.knows_tokenizer:
        folder = translator.task.paths[0]
        raise UserError(
            f"{path}: trained with fairseq's task {FAIRSEQS}, and {folder} has no tokenizer; put "
            "its sentencepiece.bpe.model there (and tokenizer.json of `fairtale bitext` if the "
            "text was tokenised with Moses)"
        )
