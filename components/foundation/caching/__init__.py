"""The cache of partial results and of products that several stages share."""
