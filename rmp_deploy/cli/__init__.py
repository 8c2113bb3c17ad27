"""The command line: `rmp-deploy COMMAND ...`; each command is a thin call of public functions."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from rmp_deploy import __version__
from rmp_deploy.cli import (
    check,
    convert,
    demo,
    doctor,
    draw,
    energy,
    export,
    map,
    profiles,
    quantize,
    simulate,
    train,
    verify,
)
from rmp_deploy.errors import RmpDeployError

COMMANDS: dict[str, ModuleType] = {
    "demo": demo,
    "train": train,
    "export": export,
    "convert": convert,
    "check": check,
    "draw": draw,
    "quantize": quantize,
    "verify": verify,
    "simulate": simulate,
    "energy": energy,
    "map": map,
    "profiles": profiles,
    "doctor": doctor,
}


class _Parser(argparse.ArgumentParser):
    """argparse prints a usage block before its message; ours is one line like every other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {self.prog}: {message}. See {self.prog} --help.\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; exit code 0 done, 1 a check failed, 2 bad input (one line on stderr), 130 interrupted."""
    parser = _Parser(prog="rmp-deploy", description="Spiking networks from PyTorch to Loihi, proven spike by spike.")
    parser.add_argument("--version", action="version", version=f"rmp-deploy {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
        command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without, say, a minus sign
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except (RmpDeployError, MemoryError) as e:
        what = " ".join(str(e).split())
        if isinstance(e, MemoryError):
            what = f"not enough memory ({what or 'no more to be had'}). Use fewer samples or a smaller network."
        print(f"error: {what}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as e:  # a run that trains says where it can be resumed
        print(f"error: interrupted. {e}".rstrip(), file=sys.stderr)
        return 130
    except OSError as e:  # what commands read and write themselves has its own messages
        if not _is_stdout(e):
            print(f"error: the system refused a file or a process: {e}. Free some and try again.", file=sys.stderr)
            return 2
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(e, BrokenPipeError):  # `rmp-deploy ... | head`: nobody reads on
            return 1
        print(f"error: standard output: cannot be written ({e.strerror}). Redirect it elsewhere.", file=sys.stderr)
        return 2
    return code


def _is_stdout(e: OSError) -> bool:
    """A write to standard output failed: such an error names no file."""
    return e.filename is None and e.errno in (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF)
