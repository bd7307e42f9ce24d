"""`backbone: hf:NAME_OR_FOLDER`, or a model folder, in a run's config: start from a pretrained model.

The setting stands for four others: the backbone's sizes, the tokenizer, whether the head is the embedding, and
`model.start`, the model folder whose weights the run begins with. A Hugging Face model is imported once, into the user's cache.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

PREFIX = "hf:"


def with_pretrained(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a config, with what its pretrained backbone stands for.

    Raises:
        ValueError: the model cannot be had or imported, or the config sets what comes with it.
    """
    name = settings.get("backbone")
    if not isinstance(name, str) or not (name.startswith(PREFIX) or Path(name).is_dir()):
        return settings
    model = settings.get("model", {})
    given: list[str] = [key for key in ("tokenizer", "tie_embeddings") if key in settings]
    given += ["model.start"] if isinstance(model, dict) and "start" in model else []
    if given or not isinstance(model, dict):
        raise ValueError(
            f"backbone: {name} brings its own {', '.join(given) or 'model group'}; leave that out of this config"
        )
    folder = imported(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else Path(name)
    return settings | described(folder) | {"model": model | {"start": str(folder)}}


@cache
def described(folder: Path) -> dict[str, Any]:
    """The settings that a model folder stands for."""
    from vlm.model_folder import read_model_config

    config = read_model_config(folder)
    return {
        "backbone": asdict(config.backbone),
        "tokenizer": config.tokenizer,
        "tie_embeddings": config.tie_embeddings,
    }


@cache
def imported(name: str) -> Path:
    """The model folder of a Hugging Face model, in the user's cache; imported unless it is there."""
    from vlm.convert.from_hf import import_model
    from vlm.convert.source import local_folder
    from vlm.training.frozen_features import cache_root

    source = local_folder(name)
    # By its files' times, not their content: hashing a large model takes as long as the import.
    files = sorted((str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in source.iterdir())
    key = hashlib.blake2b(repr(files).encode(), digest_size=8).hexdigest()
    folder = cache_root() / "imported" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(folder.with_suffix(".lock")):
        if not folder.is_dir():
            import_model(str(source), folder)
    return folder


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process at a time: the ranks of a run begin together."""
    import fcntl  # POSIX alone has it; every other command runs without

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
