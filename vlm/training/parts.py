"""Parts of a model by name: which of them learn, and how fast.

A name is the path of a module or of a weight, such as `encoder` or `backbone.decoder.0`, with everything below it; with * and ? it is a pattern
over whole paths, in which * also stands for dots. `encoder:last4` is the last four layers of a part, with what comes behind them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import nn

Value = TypeVar("Value", int, float)


def choose_learning(model: nn.Module, train_only: Sequence[str] | None, freeze: Sequence[str] | None) -> None:
    """Freeze what is not to learn.

    Args:
        train_only: the parts that learn; all where None.
        freeze: the parts that do not; it is taken off `train_only`.

    Raises:
        ValueError: a name is no part of the model.
    """
    learns = {path for path, _ in model.named_parameters()}
    if train_only is not None:
        learns = {path for name in train_only for path in weights_of(model, name, "model.train_only")}
    for name in freeze or ():
        learns -= weights_of(model, name, "model.freeze")
    for path, parameter in model.named_parameters():
        if path not in learns:
            parameter.requires_grad_(False)


def rest_frozen(model: nn.Module, waiting: Set[nn.Parameter] = frozenset()) -> None:
    """Put every module of which no weight learns in evaluation mode: its norms' statistics must not move.

    Args:
        waiting: weights that do not learn yet.
    """
    for part in model.children():
        weights = list(part.parameters())
        if weights and not any(weight.requires_grad and weight not in waiting for weight in weights):
            part.eval()
        else:
            rest_frozen(part, waiting)


def learning_rates(
    model: nn.Module, lr: float, lr_of: Mapping[str, float], layer_decay: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Peak learning rate of each weight that learns, by its path; of the names that match, the longest gives it.

    Args:
        layer_decay: factor of a part for each layer that lies behind a weight's own.

    Raises:
        ValueError: a name is no part of the model, changes no weight's rate, or stands against another of its length.
    """
    rates = dict.fromkeys(_learning(model), lr) | by_longest_name(model, lr_of, "optimizer.lr_of", "rates")
    decayed: dict[str, str] = {}
    for part, factor in (layer_decay or {}).items():
        layers = layers_of(model, part, "optimizer.layer_decay")
        learning = layers.keys() & rates.keys()
        if not learning:
            raise ValueError(f"optimizer.layer_decay names {part!r}, {NOTHING_LEARNS}")
        if twice := learning & decayed.keys():
            raise ValueError(
                f"optimizer.layer_decay names {decayed[min(twice)]!r} and {part!r}, which both hold {min(twice)}; "
                "leave one of them out"
            )
        last = max(layers.values())
        for path in learning:
            rates[path] *= factor ** (last - layers[path])
        decayed |= dict.fromkeys(learning, part)
    return rates


NOTHING_LEARNS = "of which nothing learns; leave it out, or let that part learn by model.freeze and model.train_only"


def by_longest_name(model: nn.Module, values: Mapping[str, Value], setting: str, noun: str) -> dict[str, Value]:
    """What a setting gives the weights that learn, by path; of the names that match, the longest gives it.

    Args:
        noun: what the values are, for the errors.

    Raises:
        ValueError: a name is no part of the model, gives no weight anything, or stands against another of its length.
    """
    learns = _learning(model)
    named = {name: weights_of(model, name, setting) for name in values}
    found: dict[str, Value] = {}
    used: set[str] = set()
    for path in learns:
        names = [name for name, weights in named.items() if path in weights]
        longest = [name for name in names if len(name) == max(map(len, names))]
        for name in longest:
            if values[name] != values[longest[0]]:
                raise ValueError(
                    f"{setting} gives {path} two {noun}, {values[longest[0]]:g} by {longest[0]!r} and "
                    f"{values[name]:g} by {name!r}; the longest name counts, so name that weight itself"
                )
            found[path] = values[name]
        used.update(longest)
    for name in values:
        if name in used:
            continue
        if named[name].isdisjoint(learns):
            raise ValueError(f"{setting} names {name!r}, {NOTHING_LEARNS}")
        raise ValueError(f"{setting} names {name!r}, but longer names give all its weights their {noun}; leave it out")
    return found


def weights_of(model: nn.Module, name: str, setting: str) -> set[str]:
    """Paths of the weights that a name stands for.

    Raises:
        ValueError: there are none; tells the parts, and a name that is near. Or the part has fewer layers.
    """
    part, colon, last = name.partition(":")
    if colon:
        return _last_layers(model, part, last, setting)
    paths = {path: _with_parents(path) for path, _ in model.named_parameters()}
    found = {path for path, places in paths.items() if any(fnmatchcase(place, name) for place in places)}
    if found:
        return found
    # A name without a dot is most likely one whose beginning was left out: `chunker` for `backbone.chunker`.
    known: dict[str, str] = {}
    for place in (place for around in paths.values() for place in around):
        known.setdefault(place if "." in name else place.split(".")[-1], place)
    near = [known[written] for written in get_close_matches(name, known, 1)]
    parts = sorted({path.split(".")[0] for path in paths})
    raise ValueError(
        f"{setting} names {name!r}, which is no part of this model; parts are {', '.join(parts)}"
        + (f"; the nearest name is {near[0]!r}" if near else "")
    )


def _last_layers(model: nn.Module, part: str, last: str, setting: str) -> set[str]:
    count = re.fullmatch(r"last([1-9]\d*)", last)
    if count is None:
        raise ValueError(
            f"{setting} names '{part}:{last}'; behind a colon stands last and a number, as in {part}:last4"
        )
    layers, wanted = layers_of(model, part, setting), int(count[1])
    total = max(layers.values())
    if wanted > total:
        raise ValueError(f"{setting} names '{part}:{last}', but {part} has {total} layers; name at most those")
    return {path for path, layer in layers.items() if layer > total - wanted}


def layers_of(model: nn.Module, part: str, setting: str) -> dict[str, int]:
    """The layer, from 1, of each weight of a part; 0 before the first. What lies behind a layer counts to it.

    Layers are the entries of the part's outermost lists (ModuleList, Sequential), one list after another as they stand
    in the part: a ViT's blocks, a pyramid's stages, the backbone's token, concept and token layers.

    Raises:
        ValueError: the name is no module of the model, or the module has no layers.
    """
    weights = weights_of(model, part, setting)  # a wrong name is refused with the nearest
    module = dict(model.named_modules()).get(part)
    number = {} if module is None else {path: index for index, path in enumerate(_layer_paths(module, part), 1)}
    if not number:
        raise ValueError(
            f"{setting} asks for the layers of {part!r}, which has no list of layers (ModuleList or Sequential); "
            "name a part that has one"
        )
    layers, latest = {}, 0
    for path, _ in model.named_parameters():
        if path in weights:
            latest = next((number[place] for place in _with_parents(path) if place in number), latest)
            layers[path] = latest
    return layers


def _layer_paths(module: nn.Module, path: str) -> Iterator[str]:
    is_list = isinstance(module, (nn.ModuleList, nn.Sequential))
    for name, child in module.named_children():
        if not is_list:
            yield from _layer_paths(child, f"{path}.{name}")
        elif next(child.parameters(), None) is not None:
            yield f"{path}.{name}"


def _learning(model: nn.Module) -> list[str]:
    return [path for path, parameter in model.named_parameters() if parameter.requires_grad]


def _with_parents(path: str) -> list[str]:
    """`a.b.c` -> `a`, `a.b`, `a.b.c`."""
    pieces = path.split(".")
    return [".".join(pieces[:end]) for end in range(1, len(pieces) + 1)]
