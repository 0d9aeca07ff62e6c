"""How work over many samples is carried out."""
