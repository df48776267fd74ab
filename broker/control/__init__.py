"""A bus in wall time, seen and handled from outside: over HTTP, in a browser, from Python.

    bus = Client("http://127.0.0.1:9464")
    fault = bus.inject({"crash": "edge-3", "for": "20 s"})
    bus.clear(fault.id)

`python -m broker serve --http 9464` serves it; `Client` needs nothing but this package, serving
needs the extra ``serve``.
"""

from broker.control.client import Client, ControlError
from broker.control.models import (
    Fault,
    Happening,
    Link,
    Node,
    Queue,
    State,
)

__all__ = [
    "Client",
    "ControlError",
    "Fault",
    "Happening",
    "Link",
    "Node",
    "Queue",
    "State",
]
