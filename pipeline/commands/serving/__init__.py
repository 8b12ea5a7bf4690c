"""Parts of the server: a replica of the model, and the ingress that reads requests."""
