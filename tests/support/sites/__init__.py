"""Clusters that the conformance suite of the schedulers submits to: real ones and stand-ins."""
