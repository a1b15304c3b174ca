"""`espnet3 doctor`: what a user needs to know of a cluster before a long run.

`probe` is what runs on a node, `diagnosis` what runs here. Importing this package loads neither.
"""
