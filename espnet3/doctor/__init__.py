"""`espnet3 doctor`: what a user needs to know of a cluster before the night.

`visit` is what runs on a node, `examination` what runs here. Importing this package loads neither.
"""
