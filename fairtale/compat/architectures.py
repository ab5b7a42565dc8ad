"""Let ``model: {_name: ARCHITECTURE}`` of a Hydra config have the shape of the architecture."""

import functools
from typing import Any

from fairseq import models
from fairseq.dataclass import initialize
from omegaconf import DictConfig, open_dict

from .early_stopping import modules_of_fairseq_train


def cure_shapeless_architectures() -> None:
    """Apply an architecture's function to a Hydra config that names the architecture.

    fairseq calls the function for ``--arch``, and not for a config of a model with a dataclass: it
    fills in the dataclass's defaults, so that ``_name: gpt_tiny`` trains a model of another size.
    What the config names counts more than the architecture. fairseq's own models are filled in
    before a plug-in is loaded, and stay as they are. Remove this work-around once ``add_defaults``
    calls the function.
    """
    original = initialize.add_defaults

    @functools.wraps(original)
    def add_defaults(cfg: Any) -> None:
        _shape(cfg.get("model"))
        original(cfg)

    for module in (initialize, *modules_of_fairseq_train()):
        module.add_defaults = add_defaults


def _shape(model: Any) -> None:
    """Set the values of an architecture in the config of a model that lacks some values.

    A command line gives all values, so that nothing is left to be set.
    """
    if not isinstance(model, DictConfig):
        return
    name = model.get("_name")
    kind = models.ARCH_MODEL_NAME_REGISTRY.get(name)
    dataclass: Any = models.MODEL_DATACLASS_REGISTRY.get(kind)
    if dataclass is None or set(dataclass.__dataclass_fields__) <= set(model):
        return
    with open_dict(model):
        models.ARCH_CONFIG_REGISTRY[name](model)
