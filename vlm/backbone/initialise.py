"""Weights of a new backbone."""

from torch import nn

from vlm.backbone.config import BackboneConfig


def initialise(backbone: nn.Module, config: BackboneConfig) -> None:
    """Normal weights; those that write to the stream are smaller, so that its size does not grow with depth."""
    for name, parameter in backbone.named_parameters():
        initialise_one(name, parameter, config)


def initialise_one(name: str, parameter: nn.Parameter, config: BackboneConfig) -> None:
    """One weight of a backbone, by its name there."""
    if name.endswith(".bias"):
        nn.init.zeros_(parameter)
    elif parameter.ndim == 1:
        nn.init.ones_(parameter)
    elif ".joint_" in name and config.chunk is not None and config.chunk.joint == "zero":
        nn.init.zeros_(parameter)
    elif name.startswith("project_"):
        # The stream keeps its size through the projectors, whatever `init_std` is for the layers.
        nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    elif name.endswith(("o_proj.weight", "down_proj.weight", "down_proj")):
        nn.init.normal_(parameter, std=config.init_std / (2 * config.num_layers) ** 0.5)
    else:
        nn.init.normal_(parameter, std=config.init_std)
