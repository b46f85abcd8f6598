"""Times rft, TRL and the floor side by side.

    make bench                                                       # all of it, into experiments/benchmarks/results
    python -m experiments.benchmarks.run --only dpo,ppo --model tiny --no-trl
    python -m experiments.benchmarks.run profile --only grpo         # the five largest costs of one step of ours
    python -m experiments.benchmarks.run scaling --only ppo          # step time and memory over batch and tokens

What a step holds on each side is in README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from experiments.benchmarks.cases import CASES, ROOT, Case, Shape
from experiments.benchmarks.machine import about
from experiments.benchmarks.report import progress, write
from experiments.benchmarks.workers import FLOOR, OURS, PEER, Bench, SideFailed
from rft.machine import made_here

MODELS = ("smollm2", "tiny")
FACTORS = (2, 4)
WHAT = ("times", "profile", "scaling")


def chosen(names: str | None) -> list[Case]:
    """The cases of some algorithms, or by their own names; all if none is given.

    Raises:
        SystemExit: naming what there is, if one of them is unknown.
    """
    wanted = set(names.split(",")) if names else {case.algorithm for case in CASES}
    if unknown := wanted - {known for case in CASES for known in (case.name, case.algorithm)}:
        sys.exit(f"--only {','.join(sorted(unknown))}: choose from {', '.join(dict.fromkeys(c.name for c in CASES))}")
    return [case for case in CASES if wanted & {case.name, case.algorithm}]


def begun(given: argparse.Namespace) -> dict[str, Any]:
    """What is to be filled with rows; with ``--keep``, those of an earlier run in which no side failed.

    Raises:
        SystemExit: if that run was of another kind, so that its rows would stand under the wrong title.
    """
    machine = about(given.threads)
    found: dict[str, Any] = {"machine": machine, "shape": asdict(Shape()), "repeats": given.repeats, "rows": []}
    path = given.out / f"{given.what}.json"
    if not given.keep or not path.is_file():
        return found
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    of_both = [(one["shape"], one["repeats"], one["machine"]["threads"]) for one in (before, found)]
    if of_both[0] != of_both[1]:
        sys.exit(f"--keep: {path} has another shape, --repeats or --threads; give the same, or another --out")
    wanted = set(sides_of(given))
    rows = [one for one in before["rows"] if not failures(one) and ("sides" not in one or wanted <= set(one["sides"]))]
    for one in rows:
        machine["versions"] |= versions(one)
    machine["commits"] = list(dict.fromkeys([*(one["commit"] for one in rows), *machine["commits"]]))
    return found | {"rows": rows}


def sides_of(given: argparse.Namespace) -> list[str]:
    """Who takes part."""
    return [OURS] + [PEER] * (not given.no_trl) + [FLOOR] * (not given.no_floor)


Key = tuple[Any, ...]


def key(one: dict[str, Any]) -> Key:
    """What a row is about, and of which kind it is."""
    scaled = one.get("scaling", {})
    return one["model"], one["case"], one["weights"], "profile" in one, scaled.get("of"), scaled.get("factor")


def times(
    bench: Bench, cases: Sequence[Case], weights: Sequence[bool], sides: Sequence[str], there: Set[Key]
) -> Iterator[dict[str, Any]]:
    """A row for each case and kind of weights that is not there: what each side did in its turns."""
    for lora in weights:
        for case in cases:
            if key(about_row := row(bench, case, lora)) not in there:
                found = bench.measure([(side, case.name, lora, Shape()) for side in sides])
                yield about_row | {"sides": dict(zip(sides, map(asdict, found), strict=True))}


def profiles(bench: Bench, cases: Sequence[Case], weights: Sequence[bool], there: Set[Key]) -> Iterator[dict[str, Any]]:
    """A row for each case and kind of weights that is not there: the largest costs of one step of ours."""
    for lora in weights:
        for case in cases:
            if key((about_row := row(bench, case, lora)) | {"profile": None}) not in there:
                yield about_row | {"profile": asdict(bench.profile(case.name, lora, Shape()))}


def scaling(bench: Bench, cases: Sequence[Case], weights: Sequence[bool], there: Set[Key]) -> Iterator[dict[str, Any]]:
    """A row for each factor of the batch and of the tokens, which takes turns with the shape it is compared with."""
    for lora, case, of, factor in product(weights, cases, ("batch", "tokens"), FACTORS):
        about_row, about_scaling = row(bench, case, lora), {"of": of, "factor": factor}
        if key(about_row | {"scaling": about_scaling}) not in there:
            shapes = (Shape(), Shape().scaled(**{of: factor}))
            base, found = bench.measure([(OURS, case.name, lora, shape) for shape in shapes])
            yield about_row | {"scaling": about_scaling | {"base": asdict(base), "larger": asdict(found)}}


def row(bench: Bench, case: Case, lora: bool) -> dict[str, Any]:
    """What a row is about."""
    kind = "lora" if lora else "full"
    return {"model": bench.model, "case": case.name, "weights": kind, "commit": made_here()["commit"]}


def failures(found: Any) -> list[str]:
    """Every message of a side that failed, wherever it is in a row."""
    if isinstance(found, dict):
        own = [str(found["failed"])] if found.get("failed") else []
        return own + [message for value in found.values() for message in failures(value)]
    return []


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=WHAT, default="times")
    parser.add_argument("--only", help="algorithms or cases, separated by commas")
    parser.add_argument("--model", choices=MODELS, help="one of the models instead of both")
    parser.add_argument("--repeats", type=int, default=5, help="steps that are timed, after one that is not (5)")
    parser.add_argument("--threads", type=int, default=2, help="of every side (2)")
    parser.add_argument("--no-trl", action="store_true", help="leave TRL and its environments out")
    parser.add_argument("--no-floor", action="store_true", help="leave the floor out")
    parser.add_argument("--lora", action="store_true", help="only with adapters")
    parser.add_argument("--full", action="store_true", help="only with all weights trained")
    parser.add_argument("--keep", action="store_true", help="what --out holds of the same kind is not measured again")
    parser.add_argument("--profile", action="store_true", help="profile a step of ours too, after the times")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "benchmarks", help="folder of table, JSON and plots"
    )
    given = parser.parse_args(arguments)
    if given.repeats < 1 or given.threads < 1:
        parser.error("--repeats and --threads must be at least 1")
    if given.lora and given.full:
        parser.error("--lora and --full leave nothing; give one of them, or none for both")
    return given


def rows_of(given: argparse.Namespace, bench: Bench, there: Set[Key]) -> Iterator[dict[str, Any]]:
    """All rows that are asked for and not there, of one model."""
    cases, weights = chosen(given.only), [True] if given.lora else [False] if given.full else [False, True]
    if given.what == "times":
        yield from times(bench, cases, weights, sides_of(given), there)
    if given.what == "scaling":
        yield from scaling(bench, cases, weights, there)
    if given.what == "profile" or given.profile:
        yield from profiles(bench, cases, weights, there)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write after every row, so that what is measured is never lost; 1 if a side failed."""
    given, failed = parse(arguments), 0
    chosen(given.only)
    given.out.mkdir(parents=True, exist_ok=True)
    found = begun(given)
    for model in [given.model] if given.model else MODELS:
        bench = Bench(model, given.threads, given.repeats, given.out / "logs")
        try:
            bench = replace(bench, prepared=bench.prepare(Shape()))
        except SideFailed as reason:
            sys.exit(f"{model}: cannot be prepared: {reason} (see {bench.logs})")
        for one in rows_of(given, bench, {key(one) for one in found["rows"]}):
            found["rows"].append(one)
            found["machine"]["versions"] |= versions(one)
            write(found, given.out, given.what)
            sys.stdout.write(f"{time.strftime('%H:%M:%S')} {progress(one)}\n")
            for message in failures(one):
                failed = 1
                sys.stdout.write(f"    failed: {message} (see {bench.logs})\n")
            sys.stdout.flush()
    return failed


def versions(one: dict[str, Any]) -> dict[str, str]:
    """What the sides of a row imported, TRL's two versions told apart."""
    parts = [*one.get("sides", {}).values(), *([one["profile"]] if "profile" in one else [])]
    found: dict[str, str] = {}
    for part in parts:
        own = dict(part["versions"])
        if "trl" in own:
            own[f"trl ({one['case']})" if one["case"].startswith("ppo") else "trl"] = own.pop("trl")
        found |= own
    return found


if __name__ == "__main__":
    sys.exit(main())
