"""Network parts that more than one room builds on."""
