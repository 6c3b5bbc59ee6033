"""Values that travel through truetally: frozen, slotted, without I/O."""
