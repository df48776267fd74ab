"""What the network is: nodes, the devices they are, and links, read from files.

>>> import topologies
>>> network = topologies.load("edge-clusters")
>>> network.nodes["client-0"].role
'client'
>>> topologies.units.show_size(network.nodes["client-0"].device.grant_bytes)
'576 MiB'

`load` takes the name of a bundled topology (`catalog` lists them) or a path, and reads our own YAML
as well as the files of many others; what they do not state is derived by `Rules` and marked.
`generators` makes networks to measure; `devices` and `access` list the profiles of real devices and
access networks. Everything wrong with a file is a `TopologyError`, an `InputError`, that says where
and what would be right.
"""

from topologies import generators, units
from topologies.access import Access, access
from topologies.devices import devices
from topologies.errors import InputError, TopologyError
from topologies.model import Attribute, Device, Link, Node, Topology, Transport
from topologies.readers import catalog, load, parse
from topologies.rules import LinkRules, Rules

__all__ = [
    "Access",
    "Attribute",
    "Device",
    "InputError",
    "Link",
    "LinkRules",
    "Node",
    "Rules",
    "Topology",
    "TopologyError",
    "Transport",
    "access",
    "catalog",
    "devices",
    "generators",
    "load",
    "parse",
    "units",
]
