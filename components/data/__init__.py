"""Videos, clips and moments on disk, and the order in which they are read."""
