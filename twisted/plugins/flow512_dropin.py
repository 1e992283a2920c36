"""What C{twistd} learns of flow512: two subcommands, loaded only when one is chosen."""

from twisted.application.service import ServiceMaker

flow512_registry = ServiceMaker(
    "flow512-registry",
    "flow512.plugins.registry_tap",
    "Where flow512 nodes register, and are told of each other.",
    "flow512-registry",
)

flow512_node = ServiceMaker(
    "flow512-node",
    "flow512.plugins.node_tap",
    "Share a folder with other flow512 nodes, and fetch files from theirs.",
    "flow512-node",
)
