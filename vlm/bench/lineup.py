"""Who takes part in a measurement of inference: our models by name, and transformers'."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from vlm.backbone import BackboneConfig
from vlm.bench.models import BASELINE, PEER, PLAIN, Ours, Peer, variants


@dataclass
class Lineup:
    """Models with random weights, on their device.

    Attributes:
        notes: what is to be read beside the figures, such as measurements that were left out.
    """

    configs: dict[str, BackboneConfig]
    ours: dict[str, Ours]
    peer: Peer | None
    device: torch.device
    dtype: torch.dtype
    notes: list[str] = field(default_factory=list)

    @property
    def plain(self) -> BackboneConfig:
        return self.configs[BASELINE]


def line_up(
    *,
    compression: float = 2.0,
    plain: BackboneConfig = PLAIN,
    names: Sequence[str] = (),
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Lineup:
    """Build the plain MoE, which the others are compared with, and the models whose names begin with one of `names`.

    Args:
        names: such as 1L or transformers; empty for all.

    Raises:
        ValueError: a name fits no model.
        ImportError: transformers takes part and is not installed.
    """
    configs = variants(compression, plain)
    known = [*configs, PEER]
    for name in names:
        if not any(one.startswith(name) for one in known):
            raise ValueError(f"unknown model {name!r}; known: {', '.join(known)} (the first letters are enough)")
    chosen = [one for one in known if not names or one == BASELINE or one.startswith(tuple(names))]
    # transformers first: where it is missing, that is told before the others have been built.
    peer = None
    if PEER in chosen:
        torch.manual_seed(0)
        peer = Peer(plain).to(device, dtype).eval()
    ours: dict[str, Ours] = {}
    for name in configs:
        if name in chosen:
            torch.manual_seed(0)
            ours[name] = Ours(configs[name]).to(device, dtype).eval()
    if peer is not None:
        peer.take_weights(ours[BASELINE])
    return Lineup({name: configs[name] for name in ours}, ours, peer, device, dtype)


def with_kv_heads(num_kv_heads: int) -> BackboneConfig:
    """The plain MoE with so many key heads.

    Raises:
        ValueError: they do not divide the query heads.
    """
    if num_kv_heads < 1 or PLAIN.num_heads % num_kv_heads:
        raise ValueError(f"--kv-heads must divide the {PLAIN.num_heads} query heads, got {num_kv_heads}")
    return replace(PLAIN, num_kv_heads=num_kv_heads)


def available_bytes(device: torch.device) -> int | None:
    """Memory that is free for caches; None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
