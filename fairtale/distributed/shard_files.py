"""Write and read the shards of a checkpoint with torch's distributed checkpoint (DCP).

Nothing in a checkpoint is executed: what DCP pickles besides tensors is its list of files, which is
read here by an unpickler that knows the few classes of this list.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from ..errors import UserError
from .shards import local_part

MODEL, OPTIMIZER = "model/", "optimizer/"  # how the names of tensors begin


# -------------------------------------------------------------------------------- writing


@dataclass
class Shards:
    """What a process holds of the divided tensors of a checkpoint, copied to the CPU."""

    mesh: DeviceMesh  # of the processes' CPUs
    tensors: dict[str, DTensor] = field(default_factory=dict)

    def add(self, name: str, part: Tensor, like: DTensor) -> None:
        """Copy the rows of a divided tensor that this process holds."""
        part = part.detach().to("cpu", copy=True)
        self.tensors[name] = dtensor_of(part, like, self.mesh)


def dtensor_of(part: Tensor, like: DTensor, mesh: DeviceMesh) -> DTensor:
    """Return a process's rows as part of a tensor that is divided as another one."""
    return DTensor.from_local(
        part, mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


class _Staged(AsyncStager):
    """Tells DCP that the tensors are copies already."""

    def stage(self, state_dict: Any) -> Any:
        return state_dict

    def synchronize_staging(self) -> None:
        return None

    def close(self) -> None:
        return None


class ShardWriter:
    """Writes the shards of all processes in a thread while the training goes on.

    One save is written at a time; all processes must call each method together.

    Args:
        group: processes that save, in a group of their own with gloo, because the thread
            communicates at the same time as the training.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.mesh = DeviceMesh.from_group(group, "cpu")
        self._pending: Future[None] | None = None

    def new_shards(self) -> Shards:
        """Return an empty collection, to which the shards of this process are added."""
        return Shards(self.mesh)

    def write(self, folder: Path, shards: Shards, then: Callable[[], None]) -> None:
        """Begin to write shards, and return at once.

        Args:
            folder: where; the first process has made it.
            shards: what this process writes.
            then: is called by the thread of the first process when all have written.
        """
        self.finish()
        dist.barrier(self.group)
        storage = FileSystemWriter(folder)
        pending: Future[None] = Future()
        with _quiet():
            written = async_save(
                dict(shards.tensors),
                storage_writer=storage,
                process_group=self.group,
                async_stager=_Staged(),
            )
        assert isinstance(written, Future)
        first = dist.get_rank(self.group) == 0

        def complete(written: Future[Any]) -> None:
            try:
                written.result()
                if first:
                    then()
            except BaseException as error:
                pending.set_exception(error)
            else:
                pending.set_result(None)

        written.add_done_callback(complete)
        self._pending, self._folder = pending, folder

    def finish(self) -> None:
        """Wait until everything is written.

        Raises:
            UserError: a process could not write.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except (OSError, CheckpointException) as error:
            raise UserError(
                f"{self._folder} cannot be written ({_reason(error)}): make room, or choose "
                "another --save-dir; the same command goes on from the last whole checkpoint"
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.distributed.*")
        yield


def _reason(error: BaseException) -> str:
    if isinstance(error, CheckpointException):
        rank, (cause, _) = min(error.failures.items())
        return f"worker {rank}: {_reason(cause)}"
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"


# -------------------------------------------------------------------------------- reading

# the classes of DCP's list of files, by module
_LISTED = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata", "MetadataIndex", "TensorProperties", "TensorStorageMetadata",
        "ChunkStorageMetadata", "StorageMeta", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch": {"Size", "device"} | {
        f"{kind}{bits}" for kind, bits in [
            ("float", 64), ("float", 32), ("float", 16), ("bfloat", 16), ("int", 64), ("int", 32),
        ]
    },
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath", "Path"},
    "pathlib._local": {"PosixPath", "WindowsPath", "Path"},  # Python 3.13
}  # fmt: skip


class _ListOfFiles(pickle.Unpickler):
    """Knows the classes of DCP's list of files, and nothing that could be executed."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in _LISTED.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} does not belong there")
        return super().find_class(module, name)


class _Reader(FileSystemReader):
    """Reads tensors only, and only from files of the folder."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self.path) / ".metadata"
        try:
            with path.open("rb") as stream:
                found = _ListOfFiles(stream).load()
            tensors = found.state_dict_metadata.values()
            files = [info.relative_path for info in found.storage_data.values()]
            if not all(isinstance(tensor, TensorStorageMetadata) for tensor in tensors):
                raise pickle.UnpicklingError("something else than tensors")
            if not all(PurePath(name).name == str(name) for name in files):
                raise pickle.UnpicklingError("a file of another folder")
        except (OSError, pickle.UnpicklingError, EOFError, AttributeError, TypeError) as error:
            raise UserError(
                f"{path}: not the list of a checkpoint's shards ({error}); go on from another one"
            ) from error
        assert isinstance(found, Metadata)
        return found


class ShardReader:
    """Reads shards that any number of processes has written.

    Args:
        folder: a whole checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._reader = _Reader(folder)
        listed: Any = self._reader.read_metadata().state_dict_metadata
        self.listed: dict[str, TensorStorageMetadata] = listed

    def read(self, owners: dict[str, Tensor | None]) -> dict[str, Tensor]:
        """Return tensors by name; this process reads its own rows only.

        Args:
            owners: a divided tensor for each name whose division the result has. The result is
                whole where there is none, or one of another shape.

        Raises:
            UserError: a tensor is missing, or a file is damaged.
        """
        missing = owners.keys() - self.listed.keys()
        if missing:
            raise UserError(f"{self.folder}: without {min(missing)}; go on from another checkpoint")
        found: dict[str, Any] = {}
        for name, owner in owners.items():
            size, dtype = self.listed[name].size, self.listed[name].properties.dtype
            if isinstance(owner, DTensor) and owner.shape == size:
                part = torch.empty_like(local_part(owner), dtype=dtype)
                found[name] = dtensor_of(part, owner, owner.device_mesh)
            else:
                found[name] = torch.empty(size, dtype=dtype)
        try:
            with _quiet():
                load(found, storage_reader=self._reader, no_dist=True)
        except (OSError, RuntimeError, EOFError, CheckpointException) as error:
            raise UserError(
                f"{self.folder}: a file of it is missing or damaged ({_reason(error)}); go on from "
                "another checkpoint"
            ) from error
        return found


def optimizer_key(number: int, name: str) -> str:
    """Return the name of a tensor of the optimizer's state."""
    return f"{OPTIMIZER}{number}/{name}"
