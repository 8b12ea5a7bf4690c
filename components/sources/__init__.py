"""Videos of one's own and of published data sets, and the clips cut out of them."""
