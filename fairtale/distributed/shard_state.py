"""Divide the state of a training into what is sharded and the rest, and put it together again.

The rest is a checkpoint of fairseq without the sharded tensors, and with a list of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..compat import read_checkpoint
from .shard_files import MODEL, ShardReader, Shards, optimizer_key
from .shard_folders import STATE_FILE
from .shards import local_part

KEY = "shards"  # in the state of a checkpoint
_NAMES, _SAME, _OPTIMIZER = "names", "same", "optimizer"


class Saving:
    """Takes the sharded tensors out of the state of a training.

    Args:
        shards: gets them.
    """

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        self.names: list[str] = []  # of all tensors of the model, in their order
        self.same: dict[str, str] = {}  # a tied tensor's name -> the name that has its data
        self.optimizer: list[tuple[int, str]] = []  # places of sharded tensors in its state

    def take_model(self, model: nn.Module, state: dict[str, Any]) -> None:
        """Remove the sharded tensors from a model's state dict."""
        self.names = list(state)
        first: dict[int, str] = {}
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, value in list(state.items()):
            if not isinstance(value, DTensor):
                continue
            del state[name]
            known = first.setdefault(id(parameters.get(name, value)), name)
            if known != name:
                self.same[name] = known
            else:
                self.shards.add(MODEL + name, local_part(value), value)

    def take_optimizer(
        self, owners: list[nn.Parameter], state: Mapping[int, Mapping[str, Any]]
    ) -> dict[int, dict[str, Any]]:
        """Return an optimizer's state with None for sharded tensors.

        Args:
            owners: the parameter for each number.
            state: the state by number and name.
        """
        rest: dict[int, dict[str, Any]] = {}
        for number, values in state.items():
            owner, rest[number] = owners[number], {}
            shape = local_part(owner).shape
            for name, value in values.items():
                sharded = isinstance(owner, DTensor) and isinstance(value, Tensor)
                if sharded and value.dim() and value.shape == shape:
                    self.shards.add(optimizer_key(number, name), value, owner)  # type: ignore[arg-type]
                    self.optimizer.append((number, name))
                    value = None
                rest[number][name] = value
        return rest

    def finish(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the rest of the state, with the list of what is sharded."""
        listed = {_NAMES: self.names, _SAME: self.same, _OPTIMIZER: self.optimizer}
        return {**state, KEY: listed}


class Loading:
    """Puts sharded tensors into the state that a checkpoint's file holds.

    Args:
        folder: a whole checkpoint.
        listed: the list of what is sharded.
    """

    def __init__(self, folder: Path, listed: Mapping[str, Any]) -> None:
        self.names: list[str] = listed[_NAMES]
        self.same: dict[str, str] = listed[_SAME]
        self.optimizer: list[tuple[int, str]] = listed[_OPTIMIZER]
        self.reader = ShardReader(folder)

    def model_state(
        self, rest: Mapping[str, Tensor], owners: Mapping[str, Tensor]
    ) -> OrderedDict[str, Tensor]:
        """Return the state dict of a model.

        Args:
            rest: the tensors that are not sharded.
            owners: parameters of the model that gets the state, which say how it is divided; none
                for a state of whole tensors.
        """
        names = [name for name in self.names if name not in rest and name not in self.same]
        found = self.reader.read({MODEL + name: owners.get(name) for name in names})
        sharded = {name: found[MODEL + name] for name in names}
        state = OrderedDict(
            (name, rest[name] if name in rest else sharded[self.same.get(name, name)])
            for name in self.names
        )
        # the versions of the modules, which fairseq does not send to other processes
        vars(state).update(getattr(rest, "__dict__", {}))
        return state

    def optimizer_state(
        self, owners: list[nn.Parameter] | None, rest: Mapping[int, Mapping[str, Any]]
    ) -> dict[int, dict[str, Any]]:
        """Return the state of an optimizer.

        Args:
            owners: the parameter for each number, as in :meth:`model_state`; or None.
            rest: the state with None for each sharded tensor.
        """
        state = {number: dict(values) for number, values in rest.items()}
        places = {optimizer_key(number, name): (number, name) for number, name in self.optimizer}
        found = self.reader.read(
            {
                key: owners[number] if owners is not None and number < len(owners) else None
                for key, (number, _) in places.items()
            }
        )
        for key, (number, name) in places.items():
            state[number][name] = found[key]
        return state


def read_whole(folder: Path, with_optimizer: bool = True) -> dict[str, Any]:
    """Return a checkpoint with whole tensors, as a training in one process would have written it.

    Args:
        folder: a whole checkpoint.
        with_optimizer: whether to read the optimizer's state, too.

    Raises:
        UserError: a file is missing or damaged.
    """
    state = read_checkpoint(str(folder / STATE_FILE))
    loading = Loading(folder, state.pop(KEY))
    state["model"] = loading.model_state(state["model"], {})
    optimizer = state.get("last_optimizer_state")
    if not with_optimizer:
        state["last_optimizer_state"] = None
    elif optimizer is not None:
        optimizer = {**optimizer, "state": loading.optimizer_state(None, optimizer["state"])}
        state["last_optimizer_state"] = optimizer
    return state
