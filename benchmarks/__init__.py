"""How fast the product samples and trains, beside the least time that its arithmetic takes on this machine."""
