"""Model files of a Hugging Face hub: found by name, downloaded once, and used from the cache where there is no network.

Takes hf:USER/REPO[:QUANT]; gives paths in the cache of huggingface_hub, which its other users share. Token, endpoint,
cache folder and offline mode are what huggingface_hub reads from the environment (HF_TOKEN, HF_ENDPOINT, HF_HOME,
HF_HUB_OFFLINE). A download that was stopped, also by a kill, goes on where it was: huggingface_hub itself begins anew,
so the bytes are fetched here, with its own http_get, into a file beside the place where it wants them; then it links
them. Leaves out which file a name means (hub_name.py), and what to do with it.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from edge_eds import __version__
from edge_eds.energy.file import ENERGY_SUFFIX
from edge_eds.errors import EnergyFileError, InputError, MissingExtraError, ModelError
from edge_eds.files import size_text, write_whole
from edge_eds.runtime.hub_name import HubName, choose_files, file_stem, parse_hub_name

_MAX_ENERGY = 256_000_000  # bytes; energies take some megabytes, so a larger file is something else
_BRANCH = "main"
_TIMEOUT = 10.0  # seconds for the hub's first answer
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CALLER = {"library_name": "edge-eds", "library_version": __version__}


@dataclass(frozen=True)
class _Listing:
    """A repository at one commit. sizes, hashes: path -> bytes, and SHA-256 ("" where the hub has none)."""

    commit: str
    sizes: dict[str, int]
    hashes: dict[str, str]


class _Unreachable(Exception):
    """The hub cannot be asked now: no network, offline mode, or its server is down."""


def fetch_model(name: str, *, energies: bool = True) -> Path:
    """The GGUF that a name means (of a model in parts the first), downloaded if it is not in the cache.

    Args:
        name: hf:USER/REPO[:QUANT].
        energies: fetch the energies that lie in the repository, too.

    Raises:
        InputError: not such a name, or the disk is full.
        ModelError: no such repository, no access, no such file, or no network and nothing in the cache.
        MissingExtraError: huggingface_hub is not installed.
    """
    wanted = parse_hub_name(name)
    hub = _hub()
    with _explained(wanted, hub):
        try:
            listing = _list(wanted, hub)
        except _Unreachable as error:
            return _cached_model(wanted, hub, error)
        chosen = choose_files(wanted, list(listing.sizes))
        _check_room(wanted, hub, listing, chosen)
        paths = [_download(wanted, hub, listing, file) for file in chosen]
        for file in _energies_of(chosen[0], listing) if energies else []:
            _download(wanted, hub, listing, file)
        return paths[0]


def fetch_energies(name: str) -> list[Path]:
    """All energy files of a repository, hf:USER/REPO, downloaded where they are not in the cache.

    Raises:
        InputError: not such a name, or the disk is full.
        EnergyFileError: there are none.
        ModelError: no such repository, no access, or no network and nothing in the cache.
        MissingExtraError: huggingface_hub is not installed.
    """
    wanted = parse_hub_name(name)
    hub = _hub()
    with _explained(wanted, hub):
        try:
            listing = _list(wanted, hub)
        except _Unreachable as error:
            paths = [path for folder in _snapshots(wanted, hub) for path in sorted(folder.rglob(f"*{ENERGY_SUFFIX}"))]
            if not paths:
                raise _not_cached(wanted, hub, error) from error
            return paths
        files = _energies(listing)
        if not files:
            raise EnergyFileError(f"{wanted}: there is no energy file (NAME{ENERGY_SUFFIX}) in this repository")
        return [_download(wanted, hub, listing, file) for file in files]


def snapshot_folder(path: Path) -> Path | None:
    """The folder with a repository's files, in a hub's cache, that `path` lies in; None for any other file."""
    for folder in path.absolute().parents:
        if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
            return folder
    return None


def cache_folder() -> Path | None:
    """Where models from a hub are kept; None where huggingface_hub is not installed."""
    try:
        return Path(_hub().constants.HF_HUB_CACHE)
    except MissingExtraError:
        return None


def _hub() -> Any:
    try:
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.file_download
        import huggingface_hub.hf_api
        import huggingface_hub.utils
    except ImportError as error:
        raise MissingExtraError("huggingface_hub (models by name)", "hf") from error
    return huggingface_hub


def _list(wanted: HubName, hub: Any) -> _Listing:
    api = hub.HfApi(**_CALLER)
    try:
        commit = api.model_info(wanted.repo, timeout=_TIMEOUT).sha  # it says at once that there is no network
        tree = api.list_repo_tree(wanted.repo, revision=commit, recursive=True)
        files = [entry for entry in tree if isinstance(entry, hub.hf_api.RepoFile)]
    except hub.errors.HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        raise _Unreachable(f"status {error.response.status_code}") from error
    except _network_errors(hub) as error:
        offline = isinstance(error, hub.errors.OfflineModeIsEnabled)
        raise _Unreachable("HF_HUB_OFFLINE is set" if offline else _reason(error)) from error
    hashes = {file.path: file.lfs.sha256 if file.lfs else "" for file in files}
    return _Listing(commit, {file.path: file.size for file in files}, hashes)


def _energies(listing: _Listing) -> list[str]:
    return [file for file, size in listing.sizes.items() if file.endswith(ENERGY_SUFFIX) and size <= _MAX_ENERGY]


def _energies_of(gguf: str, listing: _Listing) -> list[str]:
    """The energies that bear the model's name; where there are none, all: each says itself what it was made for."""
    files = _energies(listing)
    named = [file for file in files if file.rpartition("/")[2] == file_stem(gguf) + ENERGY_SUFFIX]
    return named or files


# -- downloading


def _download(wanted: HubName, hub: Any, listing: _Listing, file: str) -> Path:
    cached = _cached(wanted, hub, listing, file)
    if cached is not None:
        return cached
    if listing.sizes[file] <= hub.constants.MAX_HTTP_DOWNLOAD_SIZE:
        _fetch_blob(wanted, hub, listing, file)
    # The bytes lie where they belong now, so this only links them; what is too large for HTTP it downloads itself.
    path = Path(hub.hf_hub_download(wanted.repo, file, revision=listing.commit, **_CALLER))
    write_whole(_repo_folder(wanted, hub) / "refs" / _BRANCH, listing.commit.encode())  # for other users of the cache
    return path


def _cached(wanted: HubName, hub: Any, listing: _Listing, file: str) -> Path | None:
    path = hub.try_to_load_from_cache(wanted.repo, file, revision=listing.commit)
    return Path(path) if isinstance(path, str) else None  # else None, or a mark that the hub has no such file


def _fetch_blob(wanted: HubName, hub: Any, listing: _Listing, file: str) -> None:
    """Download a file, or the rest of it, to where the cache keeps contents by their hash."""
    url = hub.hf_hub_url(wanted.repo, file, revision=listing.commit)
    found = hub.get_hf_file_metadata(url, timeout=_TIMEOUT)
    if found.etag is None:
        return  # not what a hub answers: huggingface_hub says so
    blob = _repo_folder(wanted, hub) / "blobs" / found.etag
    lock = Path(hub.constants.HF_HUB_CACHE) / ".locks" / _repo_folder(wanted, hub).name / f"{found.etag}.lock"
    for folder in (blob.parent, lock.parent, _repo_folder(wanted, hub) / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    with hub.utils.WeakFileLock(lock):
        if blob.exists():  # another process was faster, or another commit has the same file
            return
        part = _part(wanted, hub, found.etag)
        size = listing.sizes[file]
        if part.exists() and part.stat().st_size > size:
            part.unlink()
        with part.open("ab") as out:
            while (start := out.tell()) < size:
                try:
                    _append(hub, url, found.location, out, size, file.rpartition("/")[2])
                except _network_errors(hub):
                    if out.tell() == start:
                        raise
                    found = hub.get_hf_file_metadata(url, timeout=_TIMEOUT)  # where files are kept has an expiry date
        if _SHA256.fullmatch(found.etag) and _hash(part) != found.etag:
            part.unlink()
            raise ModelError(f"{wanted}: {file} arrived damaged (another SHA-256 than expected); run the command again")
        part.replace(blob)


def _append(hub: Any, url: str, location: str, out: BinaryIO, size: int, shown: str) -> None:
    """Download what is missing at the end of `out`, with a progress bar."""
    headers = hub.utils.build_hf_headers(**_CALLER) | {"Accept-Encoding": "identity"}
    if urlsplit(location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # the token is for the hub, not for where it keeps its files
    hub.file_download.http_get(
        location, out, resume_size=out.tell(), headers=headers, expected_size=size, displayed_filename=shown
    )


def _part(wanted: HubName, hub: Any, etag: str) -> Path:
    """Where the beginning of a file waits for its rest."""
    return _repo_folder(wanted, hub) / "blobs" / f"{etag}.edge-eds.incomplete"


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _check_room(wanted: HubName, hub: Any, listing: _Listing, files: Sequence[str]) -> None:
    needed = 0
    for file in files:
        if _cached(wanted, hub, listing, file) is None:
            part = _part(wanted, hub, listing.hashes[file])
            needed += listing.sizes[file] - (part.stat().st_size if part.exists() else 0)
    cache = Path(hub.constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if needed > free:
        raise InputError(
            f"{wanted}: {size_text(needed)} are to be downloaded, and {cache} has {size_text(free)} left; free some, "
            "choose a smaller quant, or another folder with HF_HOME"
        )


# -- the cache


def _repo_folder(wanted: HubName, hub: Any) -> Path:
    name: str = hub.file_download.repo_folder_name(repo_id=wanted.repo, repo_type="model")
    return Path(hub.constants.HF_HUB_CACHE) / name


def _snapshots(wanted: HubName, hub: Any) -> list[Path]:
    """Folders with the files of one commit each: the branch's, then the others from the newest on."""
    folder = _repo_folder(wanted, hub)
    if not (folder / "snapshots").is_dir():
        return []
    snapshots = sorted((folder / "snapshots").iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)
    ref = folder / "refs" / _BRANCH
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else ""
    return sorted(snapshots, key=lambda one: one.name != commit)


def _cached_model(wanted: HubName, hub: Any, error: _Unreachable) -> Path:
    there = ""
    for folder in _snapshots(wanted, hub):
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf") if path.is_file())
        try:
            return folder / choose_files(wanted, files)[0]
        except ModelError as choice:
            there = there or (f" ({str(choice).removeprefix(f'{wanted}: ')})" if files else "")
    raise _not_cached(wanted, hub, error, there) from error


def _not_cached(wanted: HubName, hub: Any, error: _Unreachable, there: str = "") -> ModelError:
    return ModelError(
        f"{wanted}: {hub.constants.ENDPOINT} cannot be asked ({error}), and what is wanted is not in "
        f"{hub.constants.HF_HUB_CACHE}{there}; connect and run the command again, or pass the path of a GGUF"
    )


# -- errors


@contextmanager
def _explained(wanted: HubName, hub: Any) -> Iterator[None]:
    """What huggingface_hub raises, as one line that says what to do; its own log keeps quiet meanwhile."""
    endpoint, cache = hub.constants.ENDPOINT, hub.constants.HF_HUB_CACHE
    verbosity = hub.utils.logging.get_verbosity()
    hub.utils.logging.set_verbosity_error()
    try:
        yield
    except hub.errors.GatedRepoError as error:
        raise ModelError(
            f"{wanted}: its owner asks for consent first: give it at {endpoint}/{wanted.repo}, then log in with "
            "`hf auth login`, or set HF_TOKEN"
        ) from error
    except hub.errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{wanted}: {endpoint} has no such repository, or it is private; check the name, or log in with "
            "`hf auth login`, or set HF_TOKEN"
        ) from error
    except hub.errors.HfHubHTTPError as error:
        status = error.response.status_code
        what = "; the token was refused: renew it, or unset HF_TOKEN" if status == 401 else "; try again later"
        raise ModelError(f"{wanted}: {endpoint} answered with status {status}{what}") from error
    except hub.errors.LocalEntryNotFoundError as error:
        raise ModelError(f"{wanted}: {_reason(error)}") from error
    except _network_errors(hub) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise InputError(
                f"{wanted}: the disk of {cache} is full; free some space and run the command again: it goes on where "
                "it was"
            ) from error
        if isinstance(error, OSError) and error.filename:
            raise InputError(f"{error.filename}: cannot be written: {error.strerror or error}") from error
        raise ModelError(
            f"{wanted}: the download broke off ({_reason(error)}); run the command again: it goes on where it was"
        ) from error
    finally:
        hub.utils.logging.set_verbosity(verbosity)


def _network_errors(hub: Any) -> tuple[type[Exception], ...]:
    """What the HTTP library beneath raises: it changed from one huggingface_hub to the next."""
    return (hub.errors.HfHubHTTPError.__bases__[0], OSError)


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
