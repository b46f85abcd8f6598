"""Tokens a second of the rollout engine against ``generate`` of transformers, on SmolLM2-135M.

    python experiments/benchmarks/decode.py [--repeats 5] [--threads 2] [--dtype bf16] [--profile]

8 prompts × 4 samples of 32 + 64 tokens. `full`: every response is 64 tokens long. `ending`: a token that the model
writes once in about 20 ends a response; only counted tokens are. Both draw from the whole vocabulary at temperature 1.
The sides take turns; a row is the median over the repeats. Only the ratio means something on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PROMPTS, SAMPLES, PROMPT_TOKENS, TOKENS = 8, 4, 32, 64
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
NO_TOKEN = -1


def load(folder: Path | None, dtype: torch.dtype) -> Any:
    """The model, made from its asset if no folder is given."""
    from rft.models.pretrained import Config, Pretrained, load_folder
    from rft.store import Store

    if folder is None:
        folder = Pretrained(Config(asset="smollm2-135m-instruct"), Store.default()).prepare().path
    return load_folder(folder, dtype)[0]


def sides(model: Any, eos_id: int) -> dict[str, Callable[[int], int]]:
    """What is timed: each samples a batch by a seed and gives the number of tokens that count."""
    from rft.rollout import RolloutEngine, uniforms

    engine = RolloutEngine(model, eos_id, pad_id=0)
    ids = torch.randint(300, 4000, (PROMPTS, PROMPT_TOKENS), generator=torch.Generator().manual_seed(0))
    ids = ids.repeat_interleave(SAMPLES, 0)
    mask = torch.ones_like(ids)

    def ours(seed: int) -> int:
        numbers = uniforms(len(ids), TOKENS, seed)
        return int(engine.generate(ids, mask.bool(), numbers, 1.0).response_mask.sum())

    @torch.inference_mode()
    def theirs(seed: int) -> int:
        torch.manual_seed(seed)
        ends: dict[str, Any] = {"min_new_tokens": TOKENS} if eos_id == NO_TOKEN else {"eos_token_id": eos_id}
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=TOKENS,
            do_sample=True,
            top_k=0,
            pad_token_id=0,
            **ends,
        )[:, PROMPT_TOKENS:]
        if eos_id == NO_TOKEN:
            return int(made.numel())
        ended = (made == eos_id).long()
        return int((ended.cumsum(1) - ended == 0).sum())

    return {"rft": ours, "generate": theirs}


def timed(runs: dict[str, Callable[[int], int]], repeats: int) -> dict[str, float]:
    """Median tokens a second of each side, which take turns."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(0)
    for seed in range(1, repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            tokens = run(seed)
            found[name].append(tokens / (time.perf_counter() - start))
    return {name: statistics.median(rates) for name, rates in found.items()}


def ending_token(model: Any) -> int:
    """The token whose share of the model's own responses is closest to 1 in 20."""
    from rft.rollout import RolloutEngine, uniforms

    engine = RolloutEngine(model, NO_TOKEN, pad_id=0)
    ids = torch.randint(300, 4000, (16, PROMPT_TOKENS), generator=torch.Generator().manual_seed(0))
    seq = engine.generate(ids, torch.ones_like(ids, dtype=torch.bool), uniforms(16, TOKENS, 0), 1.0)
    return int((seq.response_ids.flatten().bincount() / seq.response_ids.numel() - 1 / 20).abs().argmin())


def profiled(run: Callable[[int], int]) -> str:
    """Where the time of one batch goes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watch:
        run(0)
    return str(watch.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40))


def main() -> None:
    """Time and print one JSON line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model folder instead of the asset")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "2")))
    parser.add_argument("--profile", action="store_true", help="print where the engine's time goes")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = load(given.model, DTYPES[given.dtype])
    for case, eos_id in (("full", NO_TOKEN), ("ending", ending_token(model))):
        runs = sides(model, eos_id)
        rates = timed(runs, given.repeats)
        row = {"case": case, "dtype": given.dtype, "threads": given.threads}
        row |= {f"{name} tokens/s": round(rate) for name, rate in rates.items()}
        row["ratio"] = round(rates["rft"] / rates["generate"], 2)
        sys.stdout.write(json.dumps(row) + "\n")
        if given.profile and case == "full":
            sys.stdout.write(profiled(runs["rft"]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
