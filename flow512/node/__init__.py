"""
The node: the rooms below, put together into one service.

L{flow512.node.service} starts and stops it. L{flow512.node.neighbourhood} knows who is there,
L{flow512.node.sharing} lets them have what is shared, L{flow512.node.fetching} gets what they have.
"""

from flow512.node.service import NodeService as NodeService
