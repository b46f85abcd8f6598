"""W&B's process beside a trial's, and where it writes."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from threading import Thread

from rft.callbacks.trackers.behind import PATIENCE

FOLDER = "wandb"
"""W&B's own in the folder of a trial."""


def end_service() -> None:
    """End W&B's process beside this one, which would keep this one from ending for as long as its server is silent.

    All that it was told is in the run's file by then.
    """
    import wandb

    connection = wandb.setup()._connection
    beside = None if connection is None else connection._proc

    def end() -> None:
        with suppress(Exception, SystemExit):  # of a process that is gone already
            wandb.teardown()

    ends = Thread(target=end, name="wandb-teardown", daemon=True)
    ends.start()
    ends.join(PATIENCE)
    if ends.is_alive() and beside is not None:
        beside._process.kill()
        ends.join(PATIENCE)


def own_places(folder: Path) -> None:
    """Let W&B lay out media where no other process does.

    It makes its temporary folders when it is imported, so that forked processes share them, and the first that ends
    removes them.
    """
    from wandb.sdk.artifacts.artifact import Artifact as Files
    from wandb.sdk.data_types._private import MEDIA_TMP

    for name, temporary in (("media", MEDIA_TMP), ("files", Files._TMP_DIR)):
        place = folder.absolute() / FOLDER / "data" / name
        place.mkdir(parents=True, exist_ok=True)
        temporary.name = str(place)


def surround(folder: Path) -> None:
    """Keep all that W&B writes in the trial's folder, so that copying the folder copies all; and let it be quiet.

    Its settings, such as the address of a server of one's own, it reads where `wandb login` has written them.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        os.environ[name] = str(folder.absolute() / FOLDER / name.split("_")[1].lower())
    logging.getLogger("wandb").setLevel(logging.ERROR)
