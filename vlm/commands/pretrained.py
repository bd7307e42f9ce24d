"""`backbone: hf:NAME_OR_FOLDER`, or a model folder, in a run's config: start from a pretrained model.

The setting stands for four others: the backbone's sizes, the tokenizer, whether the head is the embedding, and
`model.start`, the model folder whose weights the run begins with. A Hugging Face model is imported once, into the user's cache.
Of several configs that name one, the last counts: an overlay may start a run elsewhere.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

PREFIX = "hf:"
Settings = dict[str, Any]


def pretrained_backbones(configs: Iterable[tuple[Path, Settings]]) -> dict[str, Settings | None]:
    """What each pretrained backbone that configs name stands for; None where a later one replaces it, unread.

    To be called in the folder that the user is in: the parser reads a config in the config's own folder.

    Args:
        configs: each config's path and settings, in their order.

    Raises:
        ValueError: the model that counts cannot be had or imported.
    """
    named = [(name, path) for path, settings in configs if (name := pretrained_name(path, settings)) is not None]
    found: dict[str, Settings | None] = {name: None for name, _ in named}
    for name, path in named[-1:]:
        folder = imported(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else Path(name)
        if not folder.is_dir():
            raise ValueError(
                f"the config {path} begins with backbone: {name}, which is neither a model folder nor a file of settings; "
                "make it first (docs/stages.md has the commands), or put another in an overlay, "
                "`backbone: FOLDER` or `backbone: hf:NAME_OR_FOLDER`"
            )
        found[name] = described(folder)
    return found


def pretrained_name(path: Path, settings: Settings) -> str | None:
    """The pretrained backbone that a config names; none where its backbone is a mapping, or a file that holds one."""
    name = settings.get("backbone")
    is_file = isinstance(name, str) and (Path(name).is_file() or (path.parent / name).is_file())
    return None if is_file or not isinstance(name, str) else name


def with_pretrained(settings: Settings, backbones: Mapping[str, Settings | None]) -> Settings:
    """The settings of a config, with what its pretrained backbone stands for.

    Args:
        backbones: as `pretrained_backbones` found them; other names are left to the parser.

    Raises:
        ValueError: the config sets what comes with the model.
    """
    name = settings.get("backbone")
    if not isinstance(name, str) or name not in backbones:
        return settings
    model = settings.get("model", {})
    given: list[str] = [key for key in ("tokenizer", "tie_embeddings") if key in settings]
    given += ["model.start"] if isinstance(model, dict) and "start" in model else []
    if given or not isinstance(model, dict):
        raise ValueError(
            f"backbone: {name} brings its own {', '.join(given) or 'model group'}; leave that out of this config"
        )
    found = backbones[name]
    if found is None:
        return {key: value for key, value in settings.items() if key != "backbone"}
    # How conversations are written is the run's to say; a model that was taught one way goes on with it unless told.
    own = {"chat": settings["chat"]} if "chat" in settings else {}
    return settings | found | own | {"model": model | found["model"]}


def described(folder: Path) -> Settings:
    """The settings that a model folder stands for."""
    from vlm.model_folder import read_model_config

    config = read_model_config(folder)
    return {
        "backbone": asdict(config.backbone),
        "tokenizer": config.tokenizer,
        "tie_embeddings": config.tie_embeddings,
        "chat": config.chat,
        "model": {"start": str(folder)},
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
