"""Data sets of a mixture: what the config says of each, and its opened shards.

In: `SourceConfig`s. Out: `Source`s, or an error that names the source.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from data.shards import ShardSet, open_shards


@dataclass
class SourceConfig:
    """One data set of a mixture.

    Args:
        path: a tar, a folder of tars, a dataset.json, a brace pattern, or `demo:train/emoji` for a part of the demo.
        weight: share of the records drawn, relative to the other sources.
        name: for messages; the path if not given.
        augmentations: altered copies of each training picture of this source; those of the whole mixture if not given.
    """

    path: str
    weight: float = 1.0
    name: str | None = None
    augmentations: int | None = None


@dataclass(frozen=True)
class Source:
    """Opened shards with a name for messages."""

    name: str
    shards: ShardSet

    def identity(self) -> str:
        """Changes with the records, not with the place of the files."""
        return f"{len(self.shards):,} records, {self.shards.fingerprint()[:16]}"


def open_sources(configs: Sequence[SourceConfig], split: str) -> list[Source]:
    """Open and check the shards of all sources.

    Args:
        configs: of the sources.
        split: for messages.

    Raises:
        ValueError: a source has no records, a bad shard, or the name of another one.
    """
    opened = [Source(config.name or config.path, open_shards(_place(config.path))) for config in configs]
    for source in opened:
        if not len(source.shards):
            raise ValueError(f"source {source.name} of data.{split} has no records; leave it out")
    names = [source.name for source in opened]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"data.{split} has two sources called {twice[0]!r}; give them a name each, or a weight")
    return opened


def source_config(source: SourceConfig | str) -> SourceConfig:
    """A source of the config, checked; a plain path has weight 1."""
    config = SourceConfig(source) if isinstance(source, str) else source
    if config.weight <= 0:
        raise ValueError(f"source {config.path} has weight {config.weight}; give one above 0, or leave the source out")
    if config.augmentations is not None and config.augmentations < 0:
        raise ValueError(f"source {config.path} has augmentations {config.augmentations}; give 0 or more copies")
    return config


def _place(path: str) -> str:
    """Where a source lies: `demo:` is the folder of the demo's data, made on first use."""
    if not path.startswith("demo:"):
        return path
    from data.assets.expand import demo_folder

    return str(demo_folder() / path.removeprefix("demo:"))
