"""Weights on disk: safetensors, one file or shards with an index, written and read tensor by tensor.

The layout of the files is that of the Hugging Face hub, so the same code reads a folder from there and one of ours. No
pickle is ever opened: it can run code.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAME_OF_DTYPE = {dtype: name for name, dtype in DTYPES.items()}
SHARD_BYTES = 5_000_000_000  # as on the hub
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # a zip of torch.save, or bare


@dataclass(frozen=True)
class Size:
    """What a tensor is, without its values."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Stored(Size):
    """A tensor in a file."""

    file: Path


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: the single one, or those that the index names.

    Raises:
        ValueError: there is none, one that the index names is missing, or there are pickles alone.
    """
    if (folder / INDEX).is_file():
        try:
            names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{folder / INDEX} is no index of shards ({error}); fetch or save it again") from error
        if outside := [name for name in names if Path(name).name != name]:
            raise ValueError(
                f"{folder / INDEX} names {outside[0]}, which lies outside the folder; shards lie beside it"
            )
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise ValueError(
                f"{folder} lacks {_some(missing)}, which {INDEX} names; fetch or save the model again as a whole"
            )
        return [folder / name for name in names]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    pickles = sorted(path.name for kind in PICKLES for path in folder.glob(kind))
    if pickles:
        raise ValueError(
            f"{folder} has its weights in {_some(pickles)}, a pickle, which can run code and is never opened; save them as {SINGLE}"
        )
    raise ValueError(f"{folder} has no weights; it must hold {SINGLE}, or shards with {INDEX}")


def read_sizes(files: Iterable[Path]) -> dict[str, Stored]:
    """Every tensor's shape and dtype, by name; the values are not read.

    Raises:
        ValueError: a file is no safetensors, or two of them hold the same name.
    """
    found: dict[str, Stored] = {}
    for path in files:
        with open_weights(path) as file:
            for name in file.offset_keys():
                if name in found:
                    raise ValueError(f"{path} and {found[name].file} both hold {name}; only one can be meant")
                view = file.get_slice(name)
                if view.get_dtype() not in DTYPES:
                    raise ValueError(
                        f"{path}: {name} is of type {view.get_dtype()}; known: {', '.join(DTYPES)}; "
                        "take a copy of the model that is not quantised"
                    )
                found[name] = Stored(tuple(view.get_shape()), DTYPES[view.get_dtype()], path)
    return found


def open_weights(path: Path) -> safe_open:
    """An open safetensors file.

    Raises:
        ValueError: it is none; says so where it is a pickle.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(PICKLE_STARTS):
        raise ValueError(
            f"{path} is a pickle under another name, which can run code and is never opened; save it as safetensors"
        )
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}); fetch or save it again") from error


def load_weights(module: nn.Module, stored: Mapping[str, Stored]) -> None:
    """Fill a module by name. Its tensors get the dtypes of the files; names and shapes must agree."""
    module.load_state_dict(
        {name: read_weight(name, one.file) for name, one in stored.items()}, strict=False, assign=True
    )


def read_weight(name: str, path: Path) -> Tensor:
    """A tensor of a file."""
    # A copy, as a tensor of an open file is a view of it and would change with it. And the file is opened for each tensor:
    # what was read of an open one stays in memory, which makes loading cost twice the model.
    with open_weights(path) as file:
        return file.get_tensor(name).clone()


def write_weights(
    folder: Path,
    sizes: Mapping[str, Size],
    read: Callable[[str], Iterable[Tensor]],
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, str]:
    """Write tensors one after another, holding no more than a piece of one.

    Args:
        read: the pieces of a tensor, in the order of its rows.
        shard_bytes: a file ends before the tensor that would make it larger.

    Returns:
        The SHA-256 of each file written, by its name.
    """
    # Wide dtypes first, as safetensors itself does, so that each tensor begins at a multiple of its own width.
    names = sorted(sizes, key=lambda name: -sizes[name].dtype.itemsize)
    shards: list[list[str]] = [[]]
    filled = 0
    for name in names:
        if shards[-1] and filled + sizes[name].num_bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += sizes[name].num_bytes
    if len(shards) == 1:
        return {SINGLE: _write_file(folder / SINGLE, {name: sizes[name] for name in names}, read)}
    sums: dict[str, str] = {}
    where: dict[str, str] = {}
    for place, shard in enumerate(shards, 1):
        file = f"model-{place:05d}-of-{len(shards):05d}.safetensors"
        sums[file] = _write_file(folder / file, {name: sizes[name] for name in shard}, read)
        where |= dict.fromkeys(shard, file)
    total = sum(size.num_bytes for size in sizes.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return sums | {INDEX: file_sum(folder / INDEX)}


def _write_file(path: Path, sizes: Mapping[str, Size], read: Callable[[str], Iterable[Tensor]]) -> str:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in sizes.items():
        begin, end = end, end + size.num_bytes
        header[name] = {"dtype": NAME_OF_DTYPE[size.dtype], "shape": size.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in _bytes(len(text).to_bytes(8, "little") + text, sizes, read):
            digest.update(part)
            file.write(part)
    return digest.hexdigest()


def _bytes(
    header: bytes, sizes: Mapping[str, Size], read: Callable[[str], Iterable[Tensor]]
) -> Iterator[bytes | memoryview]:
    yield header
    for name, size in sizes.items():
        written = 0
        for piece in read(name):
            assert piece.dtype == size.dtype, (name, piece.dtype, size.dtype)
            flat = piece.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            written += len(flat)
            yield flat.numpy().data
        assert written == size.num_bytes, (name, written, size)


def file_sum(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
