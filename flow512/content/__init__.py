"""Content: what a file is, on disk and in digests. No Twisted, no network, no clock."""
