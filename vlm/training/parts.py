"""Parts of a model by name: which of them learn, and how fast.

A name is the path of a module or of a weight, such as `encoder` or `backbone.decoder.0`, with everything below it; with * and ? it is a pattern
over whole paths, in which * also stands for dots.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn


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


def rest_frozen(model: nn.Module) -> None:
    """Put every module of which no weight learns in evaluation mode: its norms' statistics must not move."""
    for part in model.children():
        weights = list(part.parameters())
        if weights and not any(weight.requires_grad for weight in weights):
            part.eval()
        else:
            rest_frozen(part)


def learning_rates(model: nn.Module, lr: float, lr_of: Mapping[str, float]) -> dict[str, float]:
    """Peak learning rate of each weight that learns, by its path; of the names that match, the longest gives it.

    Raises:
        ValueError: a name is no part of the model, changes no weight's rate, or stands against another of its length.
    """
    learns = [path for path, parameter in model.named_parameters() if parameter.requires_grad]
    named = {name: weights_of(model, name, "optimizer.lr_of") for name in lr_of}
    rates, used = dict.fromkeys(learns, lr), set()
    for path in learns:
        names = [name for name, weights in named.items() if path in weights]
        longest = [name for name in names if len(name) == max(map(len, names))]
        for name in longest:
            if lr_of[name] != lr_of[longest[0]]:
                raise ValueError(
                    f"optimizer.lr_of gives {path} two rates, {lr_of[longest[0]]:g} by {longest[0]!r} and "
                    f"{lr_of[name]:g} by {name!r}; the longest name counts, so name that weight itself"
                )
            rates[path] = lr_of[name]
        used.update(longest)
    for name in lr_of:
        if name in used:
            continue
        if named[name].isdisjoint(learns):
            raise ValueError(
                f"optimizer.lr_of names {name!r}, of which nothing learns; leave it out, or let that part learn "
                "by model.freeze and model.train_only"
            )
        raise ValueError(
            f"optimizer.lr_of names {name!r}, but longer names give all its weights their rates; leave it out"
        )
    return rates


def weights_of(model: nn.Module, name: str, setting: str) -> set[str]:
    """Paths of the weights that a name stands for.

    Raises:
        ValueError: there are none; tells the parts, and a name that is near.
    """
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


def _with_parents(path: str) -> list[str]:
    """`a.b.c` -> `a`, `a.b`, `a.b.c`."""
    pieces = path.split(".")
    return [".".join(pieces[:end]) for end in range(1, len(pieces) + 1)]
