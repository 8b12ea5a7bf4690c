"""Records of a run: metrics, provenance, resource usage and progress. They never change an output but data/usage."""
