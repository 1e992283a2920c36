"""The command line: what C{flow512} understands, does and says."""
