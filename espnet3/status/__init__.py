"""What has become of each shard; used by `collect`, and by `submit` before it resumes."""

from espnet3._lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
