"""What runs on a node: spec in, receipt out. Light imports only: no dask, no torch of its own."""
