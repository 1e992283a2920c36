"""The wire: bytes in, messages out. No Twisted, no I/O, no clock."""
