"""Videos of a user and of published data sets, and the clips cut from them."""
