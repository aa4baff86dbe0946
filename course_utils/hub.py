"""Pipelines from the Hugging Face hub, and from the course's own copies where the hub does not answer.

After `start({"org/name": folder})` the unmodified `DDPMPipeline.from_pretrained("org/name")` looks in this order:

1. the hub (`HF_ENDPOINT`, else huggingface.co), if it answered when asked, through the user's own cache;
2. that cache alone, if it did not answer or `HF_HUB_OFFLINE` is set;
3. the course's copy, with one line that says so and why.

Without a copy the failure is one `HubError`. Names are found in any capitals, and what a copy does not have (variants,
revisions, other file formats) does not matter to it. The mechanism is a wrapper around the `from_pretrained` of
`DiffusionPipeline` and of the `AutoPipelineFor...` classes, taken off by `close()`: no copy is ever written to the
user's cache, and single models, schedulers and tokenizers are loaded as the libraries do it.

huggingface_hub compares a file that comes over plain HTTP with its announced size, not with its hash. Here every
new file is hashed after the download (`remove_damaged`). Two gaps: where the system has no symlinks (Windows without
developer mode) the cache does not keep the hashes, so nothing can be compared; and a hub that falls silent between
`start` and the load hangs the cell, since the library's first request has no time limit: interrupt the kernel.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path, PurePath
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.pipelines import auto_pipeline
from huggingface_hub import constants, model_info, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HTTPError, RemoteEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.file_download import repo_folder_name

from .console import say

PROBE = "google/ddpm-cifar10-32"  # any repository will do: "there is none of this name" is an answer too
SECONDS = 3.0
HASH_NAME = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
# What says where on the hub or in which files the weights are: a copy has one revision, in safetensors.
OF_THE_HUB = {"variant", "revision", "use_safetensors", "local_files_only", "force_download", "cache_dir", "token"}
AUTOMATIC = [kind for name, kind in vars(auto_pipeline).items() if name.startswith("AutoPipelineFor")]
_active = ExitStack()
# One load at a time, each of which may contain another: while a pipeline is loaded the libraries make all new weights
# of the process empty, those of another thread's pipeline too, which then stay so.
_loading = threading.RLock()


class HubError(OSError):
    """A pipeline cannot be loaded; the message names the cause and the cure. An OSError, as the library's own are."""


OFFLINE = "HF_HUB_OFFLINE is set"


def told_to_be_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` is set, also by a cell after the library was imported, which reads it only then."""
    return constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


@functools.lru_cache(maxsize=1)
def silence() -> str:
    """Why the hub does not answer, "" if it does: asked once per process, known after 3 s at most.

    The library's own request is made, so proxies and certificates count as they do in a download. It runs in a thread
    of its own, because a name look-up has no time limit.
    """
    if told_to_be_offline():
        return OFFLINE
    answer = []

    def ask() -> None:
        try:
            model_info(PROBE, timeout=2 * SECONDS)  # longer than we wait, so that the answer is one
            answer.append("")
        except RepositoryNotFoundError:
            answer.append("")
        except ValueError:  # no JSON
            answer.append("something else answers in its place, such as a log-in page")
        except Exception as error:  # of any kind: it becomes the reason that is printed
            answer.append(_first_line(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return answer[0] if answer else f"nothing came for {SECONDS:.0f} s"


def start(copies: Mapping[str, str | Path]) -> ExitStack:
    """Let `from_pretrained` of every diffusers pipeline fall back on `copies`; prints whether the hub answers.

    Args:
        copies: repository id to the folder of a saved pipeline (flat or in subfolders).

    Returns:
        What ends it: `with start(copies): ...`, or `close()`. Another `start` replaces it.
    """
    global _active
    if missing := [str(folder) for folder in copies.values() if not (Path(folder) / "model_index.json").is_file()]:
        raise HubError(f"There is no saved pipeline in {', '.join(missing)}: correct the path or install again.")
    why = OFFLINE if told_to_be_offline() else silence()
    instead = f"models come from your cache or else the course's own copies: {', '.join(copies) or 'none'}"
    say(f"hub: no answer ({why}), {instead}" if why else "hub: answers")
    _active.close()
    _active = ExitStack()
    places = {name.lower(): str(folder) for name, folder in copies.items()}
    for kind in (DiffusionPipeline, *AUTOMATIC):
        _active.callback(setattr, kind, "from_pretrained", kind.__dict__["from_pretrained"])
        kind.from_pretrained = _with_copies(kind.__dict__["from_pretrained"], places, why)
    return _active


def _with_copies(plain: classmethod, copies: Mapping[str, str], why: str) -> classmethod:
    """The library's `from_pretrained`, which falls back on `copies` (names in small letters)."""
    _, first, *_ = inspect.signature(plain.__func__).parameters  # cls, and what the name is called

    @functools.wraps(plain.__func__)
    def from_pretrained(cls: type, *args: Any, **kwargs: Any) -> Any:
        if len(args) != 1 and (args or first not in kwargs):
            return plain.__func__(cls, *args, **kwargs)  # which says what is wrong
        name = args[0] if args else kwargs.pop(first)
        name = name.as_posix() if isinstance(name, PurePath) else str(name)
        now = why or (OFFLINE if told_to_be_offline() else "")
        with _loading:
            return _load(functools.partial(plain.__func__, cls), name, kwargs, copies, now)

    return classmethod(from_pretrained)


def _load(plain: Any, name: str, kwargs: dict[str, Any], copies: Mapping[str, str], why: str) -> Any:
    """`plain(name)`, the library's from_pretrained, else the copy, else HubError."""
    if os.path.isdir(name):
        return plain(name, **kwargs)
    began, cache, error = time.time() - 2, kwargs.get("cache_dir"), None  # some file systems count in 2 s
    try:
        if why:
            return plain(_in_cache(name, kwargs), **kwargs | {"local_files_only": True})
        pipeline = plain(name, **kwargs)
        damaged = remove_damaged(name, cache, since=began)
        if not damaged:
            return pipeline
    except Exception as raised:
        error = raised
        damaged = [] if why else remove_damaged(name, cache)
        if not damaged and not _is_of_files(error):
            raise  # no matter of files or network, such as a misspelt argument
    cause = f"it arrived damaged and {', '.join(damaged)} was removed; run the cell again" if damaged else ""
    cause = cause or _cause(error, why)
    if name.lower() not in copies:
        raise HubError(f"{name} cannot be loaded: {cause}.") from error
    say(f"{name}: not the hub's model but the course's own small one, so expect other pictures: {cause}.")
    try:
        return plain(copies[name.lower()], **{key: value for key, value in kwargs.items() if key not in OF_THE_HUB})
    except (OSError, HTTPError) as other:  # what is asked for besides, such as a community's pipeline
        lacks = f"and the course's copy lacks a part of it ({_first_line(other)})"
        raise HubError(f"{name} cannot be loaded so: {cause}, {lacks}.") from other


def _is_of_files(error: Exception) -> bool:
    """Whether files or the network are to blame, and not the call."""
    return isinstance(error, (OSError, HTTPError)) or "`variant=" in str(error)


def _in_cache(name: str, kwargs: Mapping[str, Any]) -> str:
    """The folder of a repository in the cache, else its name.

    Offline, diffusers 0.39 lets huggingface_hub 1.27 look for the files that it had left out on purpose.
    """
    options = {key: kwargs[key] for key in ("cache_dir", "revision") if kwargs.get(key)}
    index = try_to_load_from_cache(name, "model_index.json", **options)
    return os.path.dirname(index) if isinstance(index, str) else name


def _cause(error: BaseException, why: str) -> str:
    """Cause and cure in words, from what the library raised and what that was caused by."""
    if why:
        cure = "unset it" if told_to_be_offline() else "connect to the network"
        return f"the hub does not answer ({why}) and your cache does not hold all of it; {cure} and restart the kernel"
    chain = list(_chain(error))
    kinds = {kind for link in chain for kind in type(link).__mro__}
    if GatedRepoError in kinds:
        return "its owner asks for consent; accept the terms on its page and log in with `hf auth login`"
    if RepositoryNotFoundError in kinds:
        return "the hub has no such repository, or hides it; correct the name, or log in with `hf auth login`"
    first = _first_line(chain[-1])
    if RemoteEntryNotFoundError in kinds or "no file named" in first:
        what = first.split(" found in directory")[0]
        return f"a file is missing on the hub ({what}); tell the owner, or use another repository"
    if "`variant=" in first:
        return "the hub has no files of this variant; leave out `variant` (and a `revision` that is one)"
    if HTTPError in kinds or "Consistency check" in first:
        return f"the download failed ({first}); run the cell again"
    return first


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def remove_damaged(repo_id: str, cache_dir: str | Path | None = None, since: float = 0.0) -> list[str]:
    """Delete the files of a repository in the cache whose content does not have the hash that the hub announced.

    The cache names a file by that hash: sha256 for large files, git's sha1 for small ones. The next load fetches
    what was deleted.

    Args:
        repo_id: such as "google/ddpm-cifar10-32".
        cache_dir: else huggingface_hub's own.
        since: only look at files written after this time (seconds, as from `time.time()`).

    Returns:
        The names that the deleted files have in the repository.
    """
    folder = Path(cache_dir or constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type="model")
    names = []
    for pointer in sorted(path for path in folder.glob("snapshots/*/**/*") if path.is_symlink() and path.is_file()):
        blob = folder / "blobs" / Path(os.readlink(pointer)).name  # may lead on to a store that several share
        if HASH_NAME.fullmatch(blob.name) and blob.stat().st_mtime >= since and _hash(blob) != blob.name:
            names.append(pointer.name)
            for path in (blob.resolve(), blob, pointer):
                path.unlink(missing_ok=True)
    return names


def _hash(blob: Path) -> str:
    digest = hashlib.sha256() if len(blob.name) == 64 else hashlib.sha1(b"blob %d\0" % blob.stat().st_size)
    with blob.open("rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest()
