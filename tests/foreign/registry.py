"""The cases by name, each with what has to come of it, and the place where they run."""

import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from wire import Failed

PATIENCE = 45  # seconds that a client waits for anything
CASES = {}


@dataclass(frozen=True)
class Case:
    """Something that a client does. `reasons`: it is refused for one of them; none: it is served."""

    run: Callable
    reasons: tuple = ()
    heard: object = None
    slow: bool = False


@dataclass(frozen=True)
class Place:
    """Where a case runs: against which address, from which one, with the certificates of which folder."""

    to: tuple
    source: str
    folder: Path
    tools: dict

    def connect(self):
        """A plain connection that sends each piece as it comes."""
        plain = socket.create_connection(self.to, PATIENCE, (self.source, 0))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return plain

    def pem(self, name):
        """Paths of a certificate chain and its key."""
        return str(self.folder / f"{name}.pem"), str(self.folder / f"{name}.key")


def refused(*reasons, heard=None, slow=False):
    """A case that is refused for one of `reasons`; what its function returns must be `heard`, or in it."""

    def register(run):
        CASES[name_of(run)] = Case(run, reasons, heard, slow)
        return run

    return register


def served(run):
    """A case that gets through to the node."""
    CASES[name_of(run)] = Case(run)
    return run


def name_of(run):
    return run.__name__.replace("_", "-")


def play(name, place):
    """Runs a case; None, or what went wrong."""
    case = CASES[name]
    try:
        heard = case.run(place)
    except Exception as error:  # whatever it is, it belongs to this case
        return f"{type(error).__name__}: {error}"
    wanted = case.heard if isinstance(case.heard, tuple) else (case.heard,)
    if case.heard is not None and heard not in wanted:
        return f"the client heard {heard!r}, not {' or '.join(map(repr, wanted))}"
    return None


def until_end(stream):
    """Reads until the other side ends; what came, or that it was reset."""
    came = b""
    try:
        while piece := stream.recv(65536):
            came += piece
    except ConnectionResetError:
        return came or "reset"
    except TimeoutError as error:
        raise Failed(f"it is still open; {came[:40]!r} came") from error
    return came


def reset(plain):
    """Ends a connection with a reset."""
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    plain.close()
