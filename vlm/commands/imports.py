"""Imports in less time: they are most of what a user waits for before the first step."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Import without garbage collection: 7.9 s instead of 8.8 s for torch, Lightning and timm.

    Modules stay for the life of a process, so a pass over them frees nothing; later ones leave them out.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        # What is frozen is not taken apart at exit either, of which triton's binding complains on pages.
        atexit.register(gc.unfreeze)


@contextmanager
def torchmetrics_alone() -> Iterator[None]:
    """Import torchmetrics, of which Lightning needs the name of a class, without matplotlib and transformers: 1.7 s less.

    Its plots and its BERTScore are then missing from this process, so only for commands that run no code of the user.
    """
    from lightning_utilities.core.imports import RequirementCache

    told = RequirementCache.__bool__

    def tell(requirement: RequirementCache) -> bool:
        hidden = str(requirement.requirement).startswith(("matplotlib", "transformers"))
        return not hidden and told(requirement)

    RequirementCache.__bool__ = tell  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        RequirementCache.__bool__ = told  # type: ignore[method-assign]
