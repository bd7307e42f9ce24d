"""Which encoders are compared, with which settings, and whether each gives a picture as many vectors as the others.

In: `a,b,c`, or a YAML file of label -> encoder, and `--set KEY=VALUE`. Out: `Contender`s, each an overlay on the run's config.
Everything is known from settings: no weights are made or read.
"""

import copy
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from vlm.commands.configs import find_config, load_yaml_strictly, require_settings
from vlm.commands.plan import read_run
from vlm.connector import ConnectorConfig
from vlm.model import ModelConfig, build_encoder, image_layout

Settings = dict[str, Any]
PARTS = ("encoder", "connector", "model")  # what an entry of the file may set
OWN = ("seed_everything", "data.seed", "trainer.default_root_dir")  # what the comparison sets for each run
FILES = (".yaml", ".yml")
MERGES = (1, 2, 3, 4)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One encoder of a comparison."""

    label: str
    overlay: Settings  # on the run's config
    model: ModelConfig  # as the config and the overlay make it
    learning: Settings  # `train_only` and `freeze` of the `model` group
    vectors: int  # of a picture, as the backbone sees it

    @property
    def folder(self) -> str:
        """Of its runs, in that of the comparison."""
        return folder_name(self.label)


def folder_name(label: str) -> str:
    """A label without what a path should not have."""
    return re.sub(r"[^\w.]+", "-", label).strip("-.")


def read_lineup(encoders: str) -> dict[str, Settings]:
    """Overlays by label.

    Args:
        encoders: names with commas between them, or one YAML file, of the current folder or of the package.

    Raises:
        ValueError: there is no such file, an entry is not as it must be, or two have one name.
    """
    if encoders.endswith(FILES):
        path = Path(find_config(encoders))
        found = {str(label): entry_overlay(str(label), entry) for label, entry in require_settings(path).items()}
    else:
        names = [name.strip() for name in encoders.split(",") if name.strip()]
        if again := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"--encoders names {again[0]!r} twice; give other settings of one encoder in a YAML file")
        found = {name: entry_overlay(name, name) for name in names}
    if len(found) < 2:
        raise ValueError(
            f"--encoders {encoders!r} has {len(found)} encoder(s), and a comparison needs two or more; "
            "give names with commas between them, or a YAML file of label -> encoder"
        )
    folders: dict[str, str] = {}
    for label in found:
        if not folder_name(label):
            raise ValueError(f"--encoders: the label {label!r} has no letter or figure, and it names a folder too")
        other = folders.setdefault(folder_name(label), label)
        if other != label:
            raise ValueError(
                f"--encoders: {other!r} and {label!r} would share the folder {folder_name(label)!r}; rename one"
            )
    return found


def entry_overlay(label: str, entry: Any) -> Settings:
    """What an entry sets. Where it says nothing of learning, an encoder with `weights` is frozen and its features are kept.

    Raises:
        ValueError: it is neither an encoder setting nor a mapping of `encoder`, `connector` and `model`.
    """
    if isinstance(entry, str) or (isinstance(entry, dict) and "name" in entry):
        entry = {"encoder": entry}
    if not isinstance(entry, dict) or not entry.get("encoder"):
        raise ValueError(
            f"--encoders: {label!r} is {entry!r}; it must be a name such as timm:NAME, a mapping with `name`, "
            "or one with `encoder` and, where wanted, `connector` and `model`"
        )
    if unknown := [part for part in entry if part not in PARTS]:
        raise ValueError(
            f"--encoders: {label!r} sets {', '.join(map(str, unknown))}; an entry may set {', '.join(PARTS)}, "
            "and all else is the same for all: set it in the config, or with --set"
        )
    encoder = entry["encoder"]
    is_pretrained = isinstance(encoder, dict) and encoder.get("weights") is not None
    learning = {"freeze": ["encoder"], "feature_cache": "auto"} if is_pretrained else {}
    model = {"freeze": None, "feature_cache": None} | entry.get("model", learning)
    return {"encoder": encoder, "model": model} | ({"connector": entry["connector"]} if "connector" in entry else {})


def with_settings(overlay: Settings, settings: Sequence[str]) -> Settings:
    """The overlay with what `--set KEY=VALUE` says, read as the command line of `vlm fit` reads it.

    Raises:
        ValueError: it is no KEY=VALUE, or a key that the comparison sets itself.
    """
    made = copy.deepcopy(overlay)
    for one in settings:
        key, equals, value = one.partition("=")
        if not equals or not all(key.split(".")):
            raise ValueError(f"--set takes KEY=VALUE, got {one!r}; give for instance trainer.max_steps=20")
        if key in OWN or key.split(".")[0] == "encoder":
            raise ValueError(
                f"--set {key}: the comparison gives each run its own; use --seeds, --out, or the file of --encoders"
            )
        *groups, last = key.split(".")
        place = made
        for group in groups:
            place = place.setdefault(group, {})
            if not isinstance(place, dict):
                raise ValueError(
                    f"--set {key}: {group} holds {place!r} here, and no settings; name a whole group or value"
                )
        try:
            place[last] = load_yaml_strictly(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {one}: the value is no YAML ({str(error).splitlines()[0]})") from error
    return made


def contenders(lineup: Mapping[str, Settings], config: str, settings: Sequence[str]) -> list[Contender]:
    """Every encoder with its config, as `vlm fit` would read it.

    Raises:
        ValueError: a setting that `vlm fit` would refuse, an entry without pictures, or other numbers of vectors.
    """
    found = []
    for label, overlay in lineup.items():
        own = with_settings(overlay, settings)
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "overlay.yaml"
            path.write_text(yaml.safe_dump(own, sort_keys=False))
            try:
                model, group = read_run([config, str(path)])
            except ValueError as error:
                raise ValueError(f"{label}: {error}") from error
        layout = image_layout(build_encoder(model.encoder), model.connector)
        if layout is None:
            raise ValueError(f"{label}: there is no encoder")
        learning = {name: group.get(name) for name in ("train_only", "freeze")}
        found.append(Contender(label=label, overlay=own, model=model, learning=learning, vectors=layout.slots))
    require_equal_vectors(found)
    return found


def require_equal_vectors(found: Sequence[Contender]) -> None:
    """Refuse a comparison in which a picture is more vectors for one encoder than for another.

    Raises:
        ValueError: tells what each gives, and what would make them equal to the first.
    """
    wanted = found[0].vectors
    if all(one.vectors == wanted for one in found):
        return
    told = "; ".join(
        f"{one.label}: {one.vectors}" + ("" if one.vectors == wanted else f" ({ways_to(one, wanted)})") for one in found
    )
    raise ValueError(
        "a picture must be as many vectors for every encoder, or the backbone's cost and sight differ too. "
        f"Vectors a picture: {told}. Set these in a YAML file of label -> {{encoder: ..., connector: {{merge: N}}}}"
    )


def ways_to(one: Contender, wanted: int) -> str:
    """Sizes of picture and merges with which this encoder would give so many vectors, each tried."""
    encoder = build_encoder(one.model.encoder)
    size = encoder.spec.size_px
    rows = encoder.grid(size, size)[0]
    ways: dict[str, None] = {}
    for merge in MERGES:
        # The picture's side goes with that of the grid.
        for side in dict.fromkeys((size, round(size / rows * wanted**0.5 * merge))):
            if vectors_of(encoder, replace(one.model.connector, merge=merge), side) == wanted:
                ways[f"merge {merge}" if side == size else f"size_px {side} with merge {merge}"] = None
    return f"{wanted} with {' or '.join(ways)}" if ways else f"no size or merge was found that gives {wanted}"


def vectors_of(encoder: Any, connector: ConnectorConfig, size: int) -> int | None:
    """Of a square picture of that many pixels; None where the encoder or the connector takes none such."""
    try:
        rows, columns = connector.grid(*encoder.grid(size, size))
    except ValueError:
        return None
    return rows * columns
