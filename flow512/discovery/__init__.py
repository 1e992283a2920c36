"""
Finding each other on one network, without configuration::

    datagram      what the datagrams are: bytes in, messages out
    limits        token buckets
    engine        what to send when, and whom to believe: pure
    addresses     this machine's addresses, and who is on the same link
    sockets       the sockets for one address
    beacon        the service that drives the engine
    election      whether to follow a registry or to become one: pure
"""
