"""``rft new``: writes the package of a plugin, ready to install, check and change."""

from __future__ import annotations

import ast
import keyword
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from rft.errors import UserError

TEMPLATES = Path(__file__).with_name("templates")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")

app = typer.Typer(name="new", no_args_is_help=True, help="Write the package of a plugin.")


@app.command(no_args_is_help=True)
def algorithm(
    name: Annotated[str, typer.Argument(help="The algorithm's name, as in algorithm=NAME.")],
    into: Annotated[Path, typer.Option(help="The folder in which rft-NAME is made.")] = Path(),
) -> None:
    """Write a package with an algorithm that works: class, settings, YAML, tests.

    Example: rft new algorithm remax --into plugins
    """
    folder = write_package("algorithm", name, into)
    typer.echo(f"Wrote {folder}. What it computes is in {folder / f'rft_{name}' / f'{name}.py'}.")
    typer.echo("Next:")
    for command in (f"pip install -e {folder}", f"rft check-algorithm {name}", f"rft run algorithm={name} model=tiny"):
        typer.echo(f"  {command}")


def check_name(group: str, name: str) -> None:
    """Refuse what cannot name an option, a module and a distribution alike, and what is taken.

    Raises:
        UserError: saying which of them.
    """
    import yaml
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from rft.config.options import options

    if not NAME.fullmatch(name):
        near = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_0123456789")
        hint = f", as in {near!r}" if NAME.fullmatch(near) else ""
        raise UserError(f"NAME={name}: is no name for a module; use letters, digits and single underscores{hint}")
    if keyword.iskeyword(name) or keyword.issoftkeyword(name) or name == "conf":
        raise UserError(f"NAME={name}: is a word that Python or the package uses already; add to it, as in '{name}_x'")
    read = OverridesParser.create().parse_override(f"{group}={name}").value()
    if not isinstance(read, str) or not isinstance(yaml.safe_load(name), str):
        raise UserError(f"NAME={name}: YAML and Hydra do not read it as a name; add to it, as in '{name}_x'")
    for option in options():
        if option.group == group and option.name.casefold() == name.casefold():
            taken = f"{group}={option.name} is there already, from {option.origin}"
            raise UserError(f"NAME={name}: {taken}; choose another name")


def class_name(name: str) -> str:
    """``my_algorithm`` as ``MyAlgorithm``."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def check_class(name: str, files: Mapping[Path, str]) -> None:
    """Refuse a name whose class would hide what its module imports.

    Raises:
        UserError: naming the class.
    """
    own = class_name(name)
    for place, text in files.items():
        tree = ast.parse(text) if place.suffix == ".py" else ast.Module([], [])
        names = [alias.name for n in tree.body if isinstance(n, ast.ImportFrom) for alias in n.names]
        names += [n.name for n in tree.body if isinstance(n, ast.ClassDef)]
        if names.count(own) > 1:
            raise UserError(f"NAME={name}: its class {own} would hide what {place} uses; add to it, as in '{name}_x'")


def rendered(group: str, name: str) -> Iterator[tuple[Path, str]]:
    """The files of a new package: path below its folder, and text. ``NAME`` in a template's path is the name."""
    import jinja2

    root = TEMPLATES / group
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(root),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # Python, TOML and YAML
    )
    own = class_name(name)
    # In the order in which linters sort imports: constants first, and a class in capitals looks like one.
    imported = sorted(("Config", own), key=lambda n: (not (n.isupper() and len(n) > 1), n))
    values = {"name": name, "class_name": own, "imported": ", ".join(imported)}
    for path in sorted(root.rglob("*.j2")):
        place = path.relative_to(root).as_posix()
        text = environment.get_template(place).render(values)
        yield Path(place.replace("NAME", name).removesuffix(".j2")), text


def write_package(group: str, name: str, into: Path) -> Path:
    """Write ``into/rft-NAME``, whole or not at all; returns it.

    Raises:
        UserError: for a name that will not do, or a folder that holds something or cannot be written.
    """
    check_name(group, name)
    folder = into / f"rft-{name}"
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder}: is there already; choose another name, or another folder with --into")
    files = dict(rendered(group, name))
    check_class(name, files)
    try:
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".rft-{name}-", dir=into) as scratch:
            whole = Path(scratch) / folder.name  # made anew, for the permissions that new folders have
            for place, text in files.items():
                (whole / place).parent.mkdir(parents=True, exist_ok=True)
                (whole / place).write_text(text, encoding="utf-8")
            whole.replace(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}; give a folder with --into") from error
    return folder
