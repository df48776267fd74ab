"""What systemd is told of a service: that it is ready, that it lives, that it stops.

The protocol of sd_notify(3): a line of text to the Unix datagram socket that ``NOTIFY_SOCKET``
names. Where nobody has set that, nobody is told. With ``WatchdogSec=`` in the unit, a service that
has said nothing for so long is restarted.
"""

from __future__ import annotations

import contextlib
import os
import socket


def notify(text: str) -> bool:
    """Tells the service manager, as ``READY=1`` or ``STATUS=…``; whether there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    name = "\0" + address[1:] if address.startswith("@") else address
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as here,
    ):
        here.setblocking(False)  # a manager that does not read is not waited for
        here.sendto(text.encode(), name)
        return True
    return False
