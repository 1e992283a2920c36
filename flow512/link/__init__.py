"""The link: the plumbing of one connection, whatever is said over it."""
