"""The registry: where nodes register, and which pushes the list of peers to them."""
