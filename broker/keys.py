"""CURVE keys, and who may join a bus that can be reached from other machines.

A folder of keys holds the bus's pair and one pair for each node, in ZeroMQ's own certificate files:

    DIR/bus.key           public, for everybody
    DIR/bus.key_secret    stays with the bus
    DIR/nodes/NAME.key    public, for the bus
    DIR/nodes/NAME.key_secret   for the program on that node

The `Doorkeeper` answers ZeroMQ's question who a key belongs to (ZAP, RFC 27). A key that is in no
file of the folder gets no connection; one that is stands for its node and for no other, whatever
the connection says later. Where the bus can only be reached from this machine a secret word does.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import zmq
import zmq.auth
import zmq.utils.z85

from broker.errors import BrokerError
from topologies import InputError

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_POLL_MS = 200


@dataclass(frozen=True, slots=True)
class Pair:
    """A public key and its secret one, as ZeroMQ takes them (Z85)."""

    public: bytes
    secret: bytes


def make(folder: Path, names: Iterable[str]) -> list[Path]:
    """Makes the bus's keys and those of nodes, where there are none yet; returns the new files.

    Raises InputError for a name that no node can have.
    """
    nodes = folder / "nodes"
    nodes.mkdir(parents=True, exist_ok=True)
    for place in (folder, nodes):
        place.chmod(0o700)
    made: list[Path] = []
    for place, name in ((folder, "bus"), *((nodes, name) for name in names)):
        if not name or "/" in name or name in (".", ".."):
            raise InputError(f"{name!r} can't be the name of a node", remedy="Name no folders")
        if (place / f"{name}.key_secret").exists():
            continue
        made += [Path(path) for path in zmq.auth.create_certificates(place, name)]
    for path in made:
        path.chmod(0o600)
    return made


def of_bus(folder: Path) -> Pair:
    """The bus's own pair. Raises InputError where it is not there."""
    return _pair(folder / "bus.key_secret")


def of_node(folder: Path, name: str) -> Pair:
    """The pair of a node. Raises InputError where it is not there."""
    return _pair(folder / "nodes" / f"{name}.key_secret")


def public_of_bus(folder: Path) -> bytes:
    """The bus's public key. Raises InputError where it is not there."""
    return _read(folder / "bus.key")[0]


def holders(folder: Path) -> dict[bytes, str]:
    """The node that each public key stands for. Raises InputError where two share one."""
    names: dict[bytes, str] = {}
    for path in sorted((folder / "nodes").glob("*.key")):
        public = _read(path)[0]
        if public in names:
            raise InputError(
                f"has the key of {names[public]}", file=str(path), remedy="Make each node a key"
            )
        names[public] = path.name.removesuffix(".key")
    if not names:
        raise InputError(
            "there is no node's key in it", file=str(folder / "nodes"), remedy=_remedy()
        )
    return names


def reaches_beyond(endpoint: str) -> bool:
    """Whether other machines could connect to a socket that is bound there."""
    transport, _, address = endpoint.partition("://")
    if transport in ("ipc", "inproc"):
        return False
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True  # a name, an interface or *


def demand(endpoint: str, folder: Path | None) -> None:
    """Raises BrokerError for a bus that others could reach and that has no keys."""
    if folder is None and reaches_beyond(endpoint):
        raise BrokerError(
            f"{endpoint} can be reached from other machines, so it takes keys: make them with "
            "`python -m broker keys DIR NODE…` and start with `--keys DIR`, or bind to "
            "tcp://127.0.0.1:PORT or ipc://PATH"
        )


def _pair(path: Path) -> Pair:
    public, secret = _read(path)
    if secret is None:
        raise InputError("has no secret key", file=str(path), remedy=_remedy())
    return Pair(public, secret)


def _read(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no key can be read ({error})", file=str(path), remedy=_remedy()
        ) from error


def _remedy() -> str:
    return "Make keys with `python -m broker keys DIR NODE…`"


class Doorkeeper:
    """Answers ZAP in a thread of its own, for all sockets of one context.

    The node's name becomes the connection's User-Id. `turned_away` counts who did not get in.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], names: Mapping[bytes, str]) -> None:
        self._names = {zmq.utils.z85.decode(key): name.encode() for key, name in names.items()}
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(ZAP_ENDPOINT)
        self._over = threading.Event()
        self.turned_away = 0
        self._thread = threading.Thread(target=self._answer, name="doorkeeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; nobody gets in any more."""
        self._over.set()
        self._thread.join(5)

    def _answer(self) -> None:
        with contextlib.closing(self._socket) as socket:
            while not self._over.is_set():
                if socket.poll(_POLL_MS):
                    version, request, *asked = socket.recv_multipart()
                    name = self._holder(asked)
                    if not name:
                        self.turned_away += 1
                    code, text = (b"200", b"OK") if name else (b"400", b"No access")
                    socket.send_multipart([version, request, code, text, name, b""])

    def _holder(self, asked: list[bytes]) -> bytes:
        """Whose the key is that asks: domain, address, identity, mechanism, credentials."""
        if len(asked) != 5 or asked[3] != b"CURVE":
            return b""
        return self._names.get(asked[4], b"")


def guard(socket: zmq.Socket[bytes], pair: Pair) -> None:
    """Makes a socket, before it is bound, take only those who have a key."""
    socket.setsockopt(zmq.ZAP_DOMAIN, b"atlas")
    socket.curve_publickey = pair.public
    socket.curve_secretkey = pair.secret
    socket.curve_server = True


def show(socket: zmq.Socket[bytes], folder: Path, name: str) -> None:
    """Makes a socket, before it is connected, show the key of a node."""
    pair = of_node(folder, name)
    socket.curve_serverkey = public_of_bus(folder)
    socket.curve_publickey = pair.public
    socket.curve_secretkey = pair.secret


def word_of(path: Path) -> bytes:
    """The secret word in a file that only this user can read; made where there is none yet."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(16).hex().encode())
    return path.read_bytes().strip()
