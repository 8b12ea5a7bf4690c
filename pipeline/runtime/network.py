"""Checks of this machine's network and temporary folder before Ray starts or a server listens."""

import os
import re
import socket
from pathlib import Path
from typing import Final

from components.foundation.errors import InputError, reason

LOOPBACK: Final = "127.0.0.1"
SECONDS: Final = 5.0  # that a connection may take
LONGEST_SOCKET: Final = 107  # bytes in the path of a Unix socket, a limit of Linux
SESSION: Final = "/ray/session_2000-01-01_00-00-00_000000_0000000/sockets/plasma_store"  # below the temporary folder
SHORT_TEMPORARY: Final = Path("/tmp")
# what a client of HTTP/2, which Ray speaks, sends first (RFC 9113, 3.4): the preface and an empty frame of settings
HTTP_2: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
SETTINGS: Final = 4  # type of the frame that a server answers first; the fourth of its bytes
RAY_ADDRESS: Final = re.compile(r"(?:ray://)?(?P<host>\[[0-9a-fA-F:.]+\]|[\w.-]+):(?P<port>[1-9]\d{0,4})")


def require_loopback() -> None:
    """Raise InputError if this machine cannot connect to itself; Ray would wait for minutes without a message."""
    try:
        with (
            socket.create_server((LOOPBACK, 0)) as server,
            socket.create_connection(server.getsockname(), timeout=SECONDS),
        ):
            pass
    except OSError as error:
        raise InputError(
            f"this machine cannot connect to itself at {LOOPBACK} ({reason(error)}), as Ray's processes have to; "
            "bring the loopback interface up, such as by `ip link set lo up`"
        ) from None


def require_cluster(address: str) -> None:
    """Raise InputError if RAY_ADDRESS is malformed or no Ray listens there; Ray would retry for minutes."""
    if address in ("auto", "local"):  # words of Ray
        return
    parts = RAY_ADDRESS.fullmatch(address)
    if parts is None or int(parts["port"]) > 65535:
        raise InputError(f"RAY_ADDRESS is {address!r}; set it to HOST:PORT of a Ray cluster, or unset it")
    try:
        with socket.create_connection((parts["host"].strip("[]"), int(parts["port"])), timeout=SECONDS) as connection:
            connection.sendall(HTTP_2)
            answer = connection.recv(9)
    except OSError as error:
        raise InputError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({reason(error)}); correct RAY_ADDRESS or unset it"
        ) from None
    if answer[3:4] != bytes((SETTINGS,)) and os.environ.get("RAY_USE_TLS") != "1":  # TLS needs another greeting
        raise InputError(
            f"the server at RAY_ADDRESS={address} is not the head of a Ray cluster; set RAY_ADDRESS to its HOST:PORT, "
            "with port 6379 by default (8265 is the port of its dashboard, for `canvasmar submit`)"
        )


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine by its loopback interface; Ray knows the same three names."""
    return host.strip("[]") in ("localhost", LOOPBACK, "::1")


def require_reachable(host: str, port: int, address: str) -> None:
    """Raise InputError if the cluster at RAY_ADDRESS, which names loopback, does not listen at this machine's address.

    Ray replaces loopback by that address, and would wait for it for minutes.
    """
    try:
        socket.create_connection((host, port), timeout=SECONDS).close()
    except OSError as error:
        raise InputError(
            f"the Ray cluster at RAY_ADDRESS={address} listens on loopback only, but Ray looks for it at {host}:{port} "
            f"({reason(error)}); set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 to use it from this machine"
        ) from None


def require_free_port(port: int, setting: str) -> None:
    """Raise InputError if no server can listen on this port of the loopback interface; `setting` chooses the port."""
    try:
        socket.create_server((LOOPBACK, port)).close()
    except OSError as error:
        raise InputError(
            f"port {port} of this machine cannot be used ({reason(error)}); choose another with {setting}"
        ) from None


def temporary_folder() -> str | None:
    """Return the folder for Ray's files if Ray's own choice is too long for the paths of its Unix sockets, else None.

    Return another one, too, if Ray's own choice belongs to another user. Raise InputError if there is no such folder.
    """
    chosen = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or str(SHORT_TEMPORARY)
    if not os.access(chosen, os.W_OK | os.X_OK):
        name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
        raise InputError(f"the temporary folder {chosen} does not exist or is not writable; set {name} to one that is")
    if (Path(chosen) / "ray").exists() and not os.access(Path(chosen) / "ray", os.W_OK | os.X_OK):
        chosen = str(Path(chosen) / f"ray-{os.getuid()}")
        if len(os.fsencode(chosen + SESSION)) <= LONGEST_SOCKET:
            return chosen
    if len(os.fsencode(chosen + SESSION)) <= LONGEST_SOCKET:
        return None
    if not os.access(SHORT_TEMPORARY, os.W_OK):
        raise InputError(
            f"the temporary folder {chosen} is too long for Ray's Unix sockets, and {SHORT_TEMPORARY} is not writable; "
            "set RAY_TMPDIR to a folder with a path of at most "
            f"{LONGEST_SOCKET - len(SESSION)} bytes"
        )
    return str(SHORT_TEMPORARY / "ray")
