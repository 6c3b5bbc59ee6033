"""What all systems say, in one graph."""
