"""Writing files whole or not at all; like `errors`, a leaf that every module may import."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from rmp_deploy.errors import RmpDeployError


def check_writable(folder: str | Path) -> None:
    """Say before long work, and without making anything, that `folder` cannot be made or written.

    Raises:
        RmpDeployError: it or its nearest existing parent is no folder, or is read-only.
    """
    nearest = next(p for p in (Path(folder).absolute(), *Path(folder).absolute().parents) if _exists(p))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        reason = "Permission denied" if nearest.is_dir() else "Not a directory"
        raise RmpDeployError(f"folder '{folder}': cannot be written ({reason}). Choose a folder with room.")


def target_of(path: str | Path) -> Path:
    """The place that `path` names: where a link leads, so that writing leaves the link and replaces the file.

    Raises:
        RmpDeployError: it ends in '/', or what is there is no regular file; a device or a pipe stays what it is.
    """
    try:
        place = Path(os.path.realpath(path))
        mode = place.lstat().st_mode if os.path.lexists(place) else stat.S_IFREG
    except (OSError, ValueError) as e:  # ValueError: a name that no file can have
        raise _unwritable(path, e) from e
    if str(path).endswith(("/", os.sep)) or not stat.S_ISREG(mode):
        what = "is a folder" if stat.S_ISDIR(mode) or stat.S_ISREG(mode) else "is no regular file"
        raise RmpDeployError(f"file '{path}': cannot be written ({what}). Choose the name of a file.")
    return place


def write_atomically(path: str | Path, data: bytes | str) -> Path:
    """Write `data` beside `path` and rename it into place: a reader sees the old file or the new one, never half.

    Raises:
        RmpDeployError: as `target_of`; the folder cannot be made or written (read-only, full disk); nothing is left
            behind.
    """
    write_together({target_of(path): [data.encode() if isinstance(data, str) else data]})
    return Path(path)


def write_together(contents: Mapping[Path, Iterable[bytes]]) -> None:
    """Write several files whole or none of them: all beside their places, then renamed in their order.

    Raises:
        RmpDeployError: as `write_atomically`; every file is then what it was before.
    """
    written: dict[Path, Path] = {}  # by the place where it belongs, under another name
    before: dict[Path, Path | None] = {}  # what stood there, under another name
    made = [folder for path in contents for folder in path.parents if not _exists(folder)]
    path = next(iter(contents))
    try:
        for path, pieces in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            written[path] = _beside(path)
            with written[path].open("wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in written.items():
            if len(written) > 1:
                before[path] = _second_name(path) if path.exists() else None
            temporary.replace(path)
    except BaseException as e:
        _undo(written, before, made)
        if not isinstance(e, OSError | ValueError):  # ValueError: a name that no file can have
            raise
        raise _unwritable(path, e) from e
    for old in before.values():
        if old is not None:
            old.unlink()


def _unwritable(path: str | Path, e: Exception) -> RmpDeployError:
    reason = getattr(e, "strerror", None) or e
    return RmpDeployError(f"file '{path}': cannot be written ({reason}). Choose a folder with room.")


def _undo(written: Mapping[Path, Path], before: Mapping[Path, Path | None], made: Iterable[Path]) -> None:
    for path, old in before.items():
        if old is not None:
            old.replace(path)
        elif not written[path].exists():  # it was renamed into place
            path.unlink(missing_ok=True)
    for temporary in written.values():
        temporary.unlink(missing_ok=True)
    for folder in made:  # innermost first; one that was never made, or that somebody uses, stays as it is
        with contextlib.suppress(OSError, ValueError):
            folder.rmdir()


def _beside(path: Path) -> Path:
    """A new empty file in the folder of `path`, as readable as the user's umask says: mkstemp makes 0600."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    umask = os.umask(0)
    os.umask(umask)
    Path(name).chmod(0o666 & ~umask)
    return Path(name)


def _second_name(path: Path) -> Path:
    """A second name of the file `path`."""
    name = _beside(path)
    name.unlink()
    name.hardlink_to(path)
    return name


def _exists(folder: Path) -> bool:
    """`Path.exists`, False for a name that no folder can have."""
    try:
        return folder.exists()
    except (OSError, ValueError):
        return False
