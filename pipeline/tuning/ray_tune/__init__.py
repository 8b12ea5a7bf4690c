"""Schedulers and searchers of Ray Tune, named in params.yaml."""
