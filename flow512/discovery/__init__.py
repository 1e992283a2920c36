"""
Finding each other on one network, without configuration::

    datagram      what the datagrams are: bytes in, messages out
    sealing       what they travel in, in open and in closed networks
    limits        token buckets
    sightings     whom to believe: pure
    engine        what to send when: pure
    addresses     this machine's addresses, and who is on the same link
    sockets       the sockets for one address
    beacon        the service that drives the engine
    election      whether to follow a registry or to become one: pure
"""
