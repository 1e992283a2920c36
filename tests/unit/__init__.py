"""Tests that run in memory: no sockets, no processes, no waiting."""
