"""Where a replica listens: on the address of its node, which is loopback on a local cluster.

Ray Serve has each replica listen on every address of the machine for what other replicas may ask
it, in messages that are unpickled: whoever reached that port could run code there.

Imported by replicas only.
"""

from typing import Any

import ray
from ray.serve._private import replica


def listen_on_own_address() -> None:
    """Have the server that this replica starts next listen on its node's address alone."""
    module: Any = replica
    add_port = module.add_port_to_grpc_server
    address = ray.util.get_node_ip_address()

    def add_own(server: Any, wanted: str) -> int:
        host, _, port = wanted.rpartition(":")
        return add_port(server, f"{address}:{port}" if host == "[::]" else wanted)

    module.add_port_to_grpc_server = add_own
