"""A process that has imported everything once and forks a fresh ``rft`` for each request.

Imports are most of what a small trial costs. What runs in the fork is the real command line: its own process, its own
arguments, environment, folder and standard streams.

One JSON object a line on stdin: ``{"arguments", "cwd", "environment", "stdout", "stderr"}``; two lines on stdout for
each: the process id, and the exit code once it ended (minus the signal's number if it was killed).
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

PRELOADED = (
    "lightning",
    "lightning.pytorch.loggers",
    "pandas",
    "peft",
    "rft.cli.app",
    "rft.cli.run",
    "rft.rewards.learned",
    "rft.study.shared",
    "rft.study.training",
    "rft.study.trial",
    "rft.algorithms.dpo",
    "rft.algorithms.rlaif",
    "sklearn.linear_model",
    "transformers",
    "transformers.models.llama.modeling_llama",
    "wandb",
)


def become_rft(request: dict[str, Any]) -> None:
    """In the fork: take the request's surroundings and run the command line."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    # The installed script: Lightning starts a trial's further processes by this very command.
    sys.argv = [str(Path(sys.executable).with_name("rft")), *request["arguments"]]
    from rft.cli import main

    try:
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    # The interpreter's own end would visit, and so copy, all that was imported.
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def serve() -> None:
    """Answer requests until stdin ends."""
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # what the collector does not visit stays shared with the forks
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            become_rft(json.loads(line))
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
