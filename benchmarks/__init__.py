"""How fast the product is beside what the machine could do, as tables."""
