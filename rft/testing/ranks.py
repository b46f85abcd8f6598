"""Two ranks give the gradient of one: checked in two real processes over gloo."""

from __future__ import annotations

import os
import tempfile
import traceback
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rft.testing.subject import NUDGE, SAME, Found, NotApplicableError, Subject
from rft.testing.world import World

RANKS = 2
PATIENCE = 60.0  # seconds that a rank may take before the check counts as failed


def _share(world: World, rank: int) -> list[Any]:
    """A rank's microbatches of one step."""
    if world.algorithm.data_kind == "on_policy":
        stream = world.stream(rank=rank, world=RANKS)
        # As the stream does: credit on this rank's rollouts, then the rows of all.
        from rft.data.ranks import all_rows

        batch = all_rows(world.algorithm.assign_credit(stream.collect(0)), RANKS)
        return list(stream.minibatches(batch, 0))
    data = world.labelled()
    return list(world.offline_stream(data, rank=rank, world=RANKS).microbatches(data))


def _rank(subject: Subject, rank: int, meet: Path, answer: Connection) -> None:
    """In a process of its own: the mean gradient over ranks, sent back as a tensor or as a traceback."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        torch.distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=RANKS)
        world = subject.world(NUDGE, torch.float32)
        gradient = world.gradient(_share(world, rank))
        torch.distributed.all_reduce(gradient)
        answer.send((gradient / RANKS).tolist())
    except Exception:  # told to the parent, which fails the check
        answer.send(traceback.format_exc())
    finally:
        answer.close()
        os._exit(0)  # the parent's exit handlers are not this process's


def two_ranks(subject: Subject) -> Found:
    """A step spread over two ranks, credit assigned on each, gives the gradient of one process."""
    if subject.algorithm.data_kind == "none":
        raise NotApplicableError("it trains nothing")
    whole = subject.world(NUDGE, torch.float32)
    wanted = whole.gradient(whole.microbatches(1))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        answers = _in_two_processes(subject)
    finally:
        torch.set_num_threads(threads)
    for answer in answers:
        if isinstance(answer, str):
            return Found(False, answer.strip().splitlines()[-1] + " on a rank", subject.prepares)
        assert isinstance(answer, Tensor)
        gap = float((answer - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))
        if gap > SAME:
            return Found(
                False,
                f"gradient {gap:.1e} apart on two ranks; what prepare takes over rows must be taken over all ranks "
                "(rft.ops.masked.whiten), or within groups",
                subject.prepares,
            )
    return Found(True, f"gradient {gap:.1e} apart")


def _in_two_processes(subject: Subject) -> list[Tensor | str]:
    # Forked, so that an algorithm that lives in a test or a notebook is there, and nothing is imported twice.
    context = get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        ends, processes = [], []
        for rank in range(RANKS):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_rank, args=(subject, rank, Path(folder) / "meet", there), daemon=True)
            process.start()
            there.close()
            ends.append(here)
            processes.append(process)
        answers: list[Tensor | str] = []
        for here in ends:
            try:
                answer = here.recv() if here.poll(PATIENCE) else f"no answer within {PATIENCE:.0f} s"
            except EOFError:
                answer = "the process ended without an answer"
            answers.append(answer if isinstance(answer, str) else torch.tensor(answer, dtype=torch.float64))
        for process in processes:
            process.kill()
            process.join()
    return answers
