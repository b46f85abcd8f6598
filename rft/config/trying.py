"""Tries installed plugins: executes the ``Config`` of every option, imports every module, each plugin in a process.

What a plugin does when it is executed, ending the process or never coming back included, then ends no command.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from rft.config.build import imported, split_target
from rft.config.files import read_option
from rft.config.options import Fault, Option, executed_fault, faults, options, told
from rft.config.plugins import Plugin, plugins
from rft.errors import UserError
from rft.runtime import cores

LIMIT = 120.0  # seconds for a plugin; torch, Lightning and transformers take ten on a slow disk
_CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from rft.config.trying import main; main(sys.argv)"


def _known() -> set[tuple[str, str]]:
    """Options whose fault can be seen by reading."""
    return {key for fault in faults() for key in fault.options}


def _to_try(plugin: Plugin) -> list[Option]:
    known = _known()
    return [option for option in options() if option.plugin == plugin and option.key not in known]


def tried_faults() -> tuple[Fault, ...]:
    """What is wrong with plugins that shows when they are executed; `faults` holds what can be read."""
    with ThreadPoolExecutor(max_workers=cores()) as pool:
        return tuple(fault for found in pool.map(_try, plugins()) for fault in found)


def _try(plugin: Plugin) -> list[Fault]:
    """Try one plugin in a process of its own."""
    options_of = frozenset(option.key for option in _to_try(plugin))
    command = [sys.executable, "-c", _CHILD, json.dumps(sys.path), plugin.distribution]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=LIMIT, stdin=subprocess.DEVNULL)
        said, ended = done.stdout, f"ended the process with exit code {done.returncode}"
    except subprocess.TimeoutExpired as error:
        said, ended = error.stdout or b"", f"took longer than {LIMIT:.0f} s"
    found = [json.loads(line) for line in said.splitlines()]
    if found and found[-1] == "done":
        return _faults(plugin, found)
    where = next((one for one in reversed(found) if isinstance(one, str)), "its package")
    text = f"{where}: executing it {ended}; let it define things only, and do nothing else"
    return [*_faults(plugin, found), told(plugin, text, options_of)]


def _faults(plugin: Plugin, found: Sequence[str | tuple[str, list[tuple[str, str]]]]) -> list[Fault]:
    """What the process reported: names of what it began, and for each fault its text and options."""
    by_text: dict[str, set[tuple[str, str]]] = {}
    for one in found:
        if not isinstance(one, str):
            by_text.setdefault(one[0], set()).update((group, name) for group, name in one[1])
    return [told(plugin, text, frozenset(keys)) for text, keys in by_text.items()]


def _reports(plugin: Plugin) -> Iterator[str | tuple[str, list[tuple[str, str]]]]:
    """Before each step what is executed next, after it what is wrong, if anything is."""
    by_module: dict[str, list[tuple[str, str]]] = {m: [] for m in plugin.modules if m not in dict(plugin.faults)}
    for option in _to_try(plugin):
        yield f"{option.group}={option.name}"
        target = read_option(option.path).get("_target_")
        module = split_target(str(target))[0] if target else None
        if (error := executed_fault(option)) is not None:
            yield error, [option.key]
            by_module.pop(str(module), None)
        elif module is not None:
            by_module.setdefault(module, []).append(option.key)
    for module, keys in by_module.items():
        yield module
        try:
            imported(module)
        except UserError as error:
            yield str(error), keys


def main(arguments: Sequence[str]) -> None:
    """In the process: one JSON value a line on stdout, the last of them ``"done"``."""
    reports = os.dup(1)
    os.dup2(2, 1)  # what a plugin prints is no report
    (plugin,) = (one for one in plugins() if one.distribution == arguments[2])
    for report in itertools.chain(_reports(plugin), ["done"]):
        os.write(reports, json.dumps(report).encode() + b"\n")
