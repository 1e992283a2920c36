"""Transfer: files served to those who ask, and fetched from those who have them."""
