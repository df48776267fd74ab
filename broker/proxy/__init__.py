"""The same networks and faults for programs that speak plain TCP, unchanged.

    settings = proxy.load("shop.yaml")
    with proxy.running(settings) as shop:
        client = redis.Redis(*shop.addresses["cache"])

Each listener of the proxy stands for the way from one node of a topology to another. What comes in
goes through the network (`broker.network`, on the machine's clock) to the real server, and back.
`python -m broker proxy` does that for programs of any language; with `--api` Toxiproxy's clients
command it, too (`broker.proxy.api`, extra `serve`).

    settings     what it is told: a file, or the command line
    served       the proxy as a whole
    gate         one listener, its server, its toxics
    door         a listening socket: open, deaf or shut
    connection   one connection: two sockets, two ways, TCP kept up end to end
    world        topology and faults, on the loop's clock
    toxics       Toxiproxy's toxics: what each does
    stages       and their timers
    loop         an event loop whose timers are exact
    api          Toxiproxy's HTTP API
"""

from broker.proxy.served import Proxy, Running, running
from broker.proxy.settings import Address, ProxySettings, Route, load, route

__all__ = [
    "Address",
    "Proxy",
    "ProxySettings",
    "Route",
    "Running",
    "load",
    "route",
    "running",
]
