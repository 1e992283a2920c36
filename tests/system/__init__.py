"""Tests that use real sockets and processes, on loopback only; pytest drives them."""
