"""The tensors of a Hugging Face folder: shapes from the headers, contents when they are asked for.

Four kinds of files are read: ``model.safetensors``, several safetensors with an index, and the
older ``pytorch_model.bin``, in one or several files. Nothing is executed.
"""

from __future__ import annotations

import os
import zipfile
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..compat import explained_checkpoint_errors
from ..errors import UserError
from .gpt2_config import read_json_object

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
_OLD_WEIGHTS, _OLD_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_DTYPES = {  # names in headers of safetensors
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
    "U8": torch.uint8,
}
FLOATS = (torch.float32, torch.float16, torch.bfloat16)  # all of their values are exact in fp32


class StoredTensor(NamedTuple):
    """What is known of a tensor before it is read."""

    file: str
    size: tuple[int, ...]
    dtype: torch.dtype


def library() -> Any:
    """Import and return safetensors.

    Raises:
        UserError: it is not installed.
    """
    try:
        import safetensors.torch
    except ImportError:
        raise UserError("safetensors is not installed; run: pip install 'fairtale[hf]'") from None
    return safetensors


class TensorFiles:
    """The tensors of a folder.

    Args:
        folder: a folder with weights.

    Attributes:
        tensors: what is known of each tensor, by its name.

    Raises:
        UserError: a file is missing, damaged, or of an unknown kind.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._open: dict[str, Any] = {}  # a safetensors handle, or the content of a .bin
        self.tensors: dict[str, StoredTensor] = {}
        files, index = _find(folder)
        for file in files:
            self.tensors.update(self._read_names(file))
        if index is not None:
            self._check_index(index)

    def _read_names(self, name: str) -> dict[str, StoredTensor]:
        path = os.path.join(self.folder, name)
        if name.endswith(".safetensors"):
            found = self._open_safetensors(path)
        else:
            found = self._open_old(path)
        twice = found.keys() & self.tensors.keys()
        if twice:
            raise UserError(f"{path}: {min(twice)} is in another file, too; copy the folder again")
        return found

    def _open_safetensors(self, path: str) -> dict[str, StoredTensor]:
        reader = library()
        try:
            handle = reader.safe_open(path, framework="pt", device="cpu")
            self._open[path] = handle
            parts = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
        except reader.SafetensorError as error:
            raise UserError(
                f"{path}: cut short or damaged ({error}; {os.path.getsize(path)} bytes): copy it "
                "again"
            ) from None
        found = {}
        for name, part in parts.items():
            code = part.get_dtype()
            if code not in _DTYPES:
                raise UserError(f"{path}: {name} has the type {code}: {_TYPE_RULE}")
            found[name] = StoredTensor(path, tuple(part.get_shape()), _DTYPES[code])
        return found

    def _open_old(self, path: str) -> dict[str, StoredTensor]:
        with explained_checkpoint_errors(path):
            mapped = zipfile.is_zipfile(path)  # files of torch < 1.6 are not, and not mappable
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        if not isinstance(content, dict):
            raise UserError(f"{path}: holds {type(content).__name__}, not tensors with their names")
        for name, value in content.items():
            if not isinstance(name, str):
                raise UserError(f"{path}: {name!r} is not the name of a tensor")
            if not isinstance(value, Tensor):
                raise UserError(f"{path}: {name} is not a tensor, but {type(value).__name__}")
            if value.dtype not in _DTYPES.values() or value.layout != torch.strided:
                raise UserError(f"{path}: {name} has the type {value.dtype}: {_TYPE_RULE}")
            if value.device.type != "cpu":
                raise UserError(f"{path}: {name} has no values (it is on {value.device})")
        self._open[path] = content
        return {n: StoredTensor(path, tuple(t.shape), t.dtype) for n, t in content.items()}

    def _check_index(self, index: dict[str, str]) -> None:
        for name, file in index.items():
            if name not in self.tensors or os.path.basename(self.tensors[name].file) != file:
                raise UserError(
                    f"{os.path.join(self.folder, file)}: {name} is missing, which the index says "
                    "is there; copy the folder again"
                )
        strange = self.tensors.keys() - index.keys()
        if strange:
            name = min(strange)
            raise UserError(f"{self.tensors[name].file}: {name} is not in the folder's index")

    def load(self, name: str) -> Tensor:
        """Read a tensor."""
        file = self._open[self.tensors[name].file]
        tensor: Tensor = file[name] if isinstance(file, dict) else file.get_tensor(name)
        return tensor.detach()


_TYPE_RULE = "only float32, float16 and bfloat16 can be imported without loss"


def _find(folder: str) -> tuple[list[str], dict[str, str] | None]:
    """Return the names of a folder's files with weights, and the index of several."""
    for single, several in ((WEIGHTS, WEIGHTS_INDEX), (_OLD_WEIGHTS, _OLD_INDEX)):
        has = [os.path.isfile(os.path.join(folder, name)) for name in (single, several)]
        if all(has):
            raise UserError(
                f"{folder}: has both {single} and {several}: remove the one that is not meant"
            )
        if has[0]:
            return [single], None
        if has[1]:
            return _read_index(folder, several, os.path.splitext(single)[1])
    raise UserError(
        f"{folder}: has no weights: {WEIGHTS}, {WEIGHTS_INDEX}, {_OLD_WEIGHTS} or {_OLD_INDEX}"
    )


def _read_index(folder: str, name: str, ending: str) -> tuple[list[str], dict[str, str]]:
    path = os.path.join(folder, name)
    index = read_json_object(path).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise UserError(f"{path}: has no weight_map")
    files = sorted(set(map(str, index.values())))
    for file in files:
        if os.path.basename(file) != file or not file.endswith(ending):
            raise UserError(f"{path}: {file!r} is not the name of a {ending} file in the folder")
        if not os.path.isfile(os.path.join(folder, file)):
            raise UserError(f"{folder}: {file} is missing, which {name} names; copy it again")
    return files, index
