"""The same work behind megatron-energon and mosaicml-streaming, where they are installed.

Both decode by torchvision here, the fastest way they have. Each needs a copy of the shards in a form of its own, made once.
"""

import importlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data.shards import open_shards
from vlm.bench.data_pipelines import SHUFFLED, PackedRow, decoded_by_torchvision, pack_as_they_come

PEERS = {"megatron-energon": "megatron.energon", "mosaicml-streaming": "streaming"}  # distribution -> module
DATASET = "__module__: megatron.energon\n__class__: CrudeWebdataset\n"  # records as they are stored


def installed_peers() -> tuple[dict[str, Callable[[Path], Iterator[PackedRow]]], list[str]]:
    """Pipelines by name and version, and why others are missing."""
    makers = {"megatron-energon": energon, "mosaicml-streaming": streaming}
    found: dict[str, Callable[[Path], Iterator[PackedRow]]] = {}
    missing: list[str] = []
    for name, module in PEERS.items():
        try:
            importlib.import_module(module)
            found[f"{name} {version(name)}, torchvision"] = makers[name]
        except PackageNotFoundError:
            missing.append(f"{name} is not installed")
        except (
            Exception
        ) as error:  # of any kind: they bring a hundred packages, each of which may not fit this machine's
            reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be imported ({error})"
            missing.append(f"{name} {reason}")
    return found, missing


def energon(shards: Path) -> Iterator[PackedRow]:
    """One epoch of energon's training loader in this process; its records come as bytes."""
    lib: Any = importlib.import_module("megatron.energon")

    def cook(sample: dict[str, Any]) -> dict[str, Any]:
        return {**lib.basic_sample_keys(sample), "jpg": sample["jpg"], "json": sample["json"]}

    class Encoder(lib.TaskEncoder):
        decoder = None
        cookers = (lib.Cooker(lib.stateless(cook)),)

    dataset = lib.get_train_dataset(
        _kept(shards, "energon", _prepare_energon),
        worker_config=lib.WorkerConfig(rank=0, world_size=1, num_workers=0),
        batch_size=None,
        shuffle_buffer_size=SHUFFLED,
        max_samples_per_sequence=None,
        task_encoder=Encoder(),
        repeat=False,
    )
    loader = lib.get_loader(dataset)
    warnings.filterwarnings("ignore", ".*pin_memory.*")  # which it asks for, with a GPU or without
    return pack_as_they_come((decoded_by_torchvision(one["jpg"]), json.loads(one["json"])) for one in loader)


def streaming(shards: Path) -> Iterator[PackedRow]:
    """One epoch of a shuffled StreamingDataset in this process, from MDS shards of the same bytes."""
    lib: Any = importlib.import_module("streaming")
    folder = _kept(shards, "mds", _prepare_streaming)
    dataset = lib.StreamingDataset(local=str(folder), shuffle=True, batch_size=1, num_canonical_nodes=1)
    return pack_as_they_come((decoded_by_torchvision(one["jpg"]), json.loads(one["json"])) for one in dataset)


def _kept(shards: Path, name: str, prepare: Callable[[Path, Path], None]) -> Path:
    """A form of the shards that is made once."""
    kept = shards.with_name(f"{shards.name}-{name}")
    if not kept.is_dir():
        partial = kept.with_name(f".{kept.name}.{os.getpid()}.part")
        try:
            prepare(shards, partial)
            os.replace(partial, kept)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return kept


def _prepare_energon(shards: Path, folder: Path) -> None:
    prepare: Any = importlib.import_module("megatron.energon.flavors.webdataset.prepare")
    shutil.copytree(shards, folder)
    names = sorted(path.name for path in folder.glob("*.tar"))
    prepare.WebdatasetPreparator.prepare_dataset(folder, names, split_parts_ratio=[("train", 1.0)], workers=1)
    (folder / ".nv-meta" / "dataset.yaml").write_text(DATASET)


def _prepare_streaming(shards: Path, folder: Path) -> None:
    lib: Any = importlib.import_module("streaming")
    records = open_shards(shards)
    with lib.MDSWriter(out=str(folder), columns={"jpg": "bytes", "json": "bytes"}) as writer:
        for index in range(len(records)):
            _, members = records.read(index)
            writer.write({name: members[name] for name in ("jpg", "json")})
