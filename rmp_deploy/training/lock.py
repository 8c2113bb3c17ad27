"""One run at a time in a folder: a lock file that names the process that trains there."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from rmp_deploy.errors import RmpDeployError

if sys.platform != "win32":
    import fcntl

LOCK = "train.lock"


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep every other run out of `folder`, which is made if it is not there, while this is open.

    The file holds pid and host, and the system's lock (flock), which ends with its process however that ends: what a
    killed process of this host left is taken over. The system's locks may not reach other hosts, so a file of another
    one is believed.

    Raises:
        RmpDeployError: another run has the folder, or it cannot be written.
    """
    if sys.platform == "win32":  # it has no flock: nothing is locked there
        yield
        return
    path = folder / LOCK
    made: list[Path] = []
    try:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        file = _take(path)
    except (OSError, ValueError) as e:  # ValueError: a name that no folder can have
        reason = getattr(e, "strerror", None) or e
        raise RmpDeployError(f"folder '{folder}': cannot be written ({reason}). Choose a folder with room.") from e
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            for place in made:  # innermost first; where a run has left something they stay
                with contextlib.suppress(OSError):
                    place.rmdir()


def _take(path: Path) -> TextIO:
    """The lock file, open: it is ours until it is closed."""
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is(path, file):  # the run that had it has just ended and removed it
                file.close()
                continue
            owner = _owner(file)
            if owner and owner[1] != socket.gethostname():
                raise _refused(path, owner)
        except BlockingIOError:
            with file:
                raise _refused(path, _owner(file)) from None
        except BaseException:
            file.close()
            raise
        file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
        file.flush()
        return file


def _is(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _owner(file: TextIO) -> tuple[object, object] | None:
    """Process and host, as the file names them; None where it is empty, as a run leaves it that is killed at once."""
    file.seek(0)
    text = file.read(1000)
    try:
        values = json.loads(text)
        return values["pid"], values["host"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ("unknown", "unknown") if text else None


def _refused(path: Path, owner: tuple[object, object] | None) -> RmpDeployError:
    pid, host = (str(value)[:80] for value in owner or ("unknown", "unknown"))
    what = f"file '{path}': process {pid} on host '{host}' trains here, allowed one run at a time"
    return RmpDeployError(f"{what}. Wait for it, train into another folder, or remove the file if it is gone.")
