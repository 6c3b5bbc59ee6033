"""How CSI drivers name what they make."""
