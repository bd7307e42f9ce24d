"""What Lightning would say and nobody needs: greetings, warnings that the design answers, and errors of many lines."""

import logging
import os
import re
import warnings
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser

QUIET = (
    ".*does not have many workers.*",  # the loader's workers are chosen by the config
    ".*is supposed to be used .*dataloader.*",
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ".*litlogger.*",
    ".*Total length of `list` across ranks is zero.*",  # data.val may be empty
    ".*module\\(s\\) in eval mode at the start of training.*",  # parts of model.freeze are meant to be
    ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run goes on in its folder
)


class Parser(LightningArgumentParser):
    """Errors in one line; configs are looked up in the current folder, then among those that come with the package."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        # A link's own report quotes all that went into it; the reason stands at its end.
        raise ValueError(re.sub(r"^Call to compute_fn of link .*? failed: ", "", message, flags=re.DOTALL)) from ex


def silence() -> None:
    """Keep Lightning's greetings out of the output; its warnings stay, save those that the design answers."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.distributed").setLevel(logging.WARNING)
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning calls what jsonargparse will drop
    for message in QUIET:
        warnings.filterwarnings("ignore", message)
