"""`make bench`: the speed of espnet3 beside its peers, in one go; see `__main__.py`."""
