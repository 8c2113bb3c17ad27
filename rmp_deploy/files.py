"""Writing files whole or not at all; like `errors`, a leaf that every module may import."""

from __future__ import annotations

import contextlib
import os
import tempfile
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


def write_atomically(path: str | Path, data: bytes | str) -> Path:
    """Write `data` beside `path` and rename it into place: a reader sees the old file or the new one, never half.

    Raises:
        RmpDeployError: the folder cannot be made or written (read-only, full disk); nothing is left behind.
    """
    path = Path(path)
    raw = data.encode() if isinstance(data, str) else data
    temporary: str | None = None
    made = [folder for folder in path.parents if not _exists(folder)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes 0600; a result is as readable as the user's umask says
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except (OSError, ValueError) as e:  # ValueError: a name that no file can have
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        for folder in made:  # innermost first; one that was never made, or that somebody uses, stays as it is
            with contextlib.suppress(OSError, ValueError):
                folder.rmdir()
        reason = getattr(e, "strerror", None) or e
        raise RmpDeployError(f"file '{path}': cannot be written ({reason}). Choose a folder with room.") from e
    return path


def _exists(folder: Path) -> bool:
    """`Path.exists`, False for a name that no folder can have."""
    try:
        return folder.exists()
    except (OSError, ValueError):
        return False
