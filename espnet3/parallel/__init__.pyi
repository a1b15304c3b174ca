# The public names, written once: type checkers read them here, and so does `espnet3._lazy`.
from espnet3.config.model import ParallelConfig as ParallelConfig
from espnet3.parallel.base_runner import BaseRunner as BaseRunner
from espnet3.parallel.config import get_parallel_config as get_parallel_config
from espnet3.parallel.config import set_parallel as set_parallel
from espnet3.parallel.env_provider import EnvironmentProvider as EnvironmentProvider
from espnet3.parallel.inference_provider import InferenceProvider as InferenceProvider
from espnet3.parallel.parallel import DictReturnWorkerPlugin as DictReturnWorkerPlugin
from espnet3.parallel.parallel import build_client as build_client
from espnet3.parallel.parallel import build_local_gpu_cluster as build_local_gpu_cluster
from espnet3.parallel.parallel import get_client as get_client
from espnet3.parallel.parallel import make_client as make_client
from espnet3.parallel.parallel import make_local_gpu_cluster as make_local_gpu_cluster
from espnet3.parallel.parallel import parallel_for as parallel_for
from espnet3.parallel.parallel import parallel_map as parallel_map
from espnet3.parallel.parallel import wrap_func_with_worker_env as wrap_func_with_worker_env
from espnet3.parallel.writer_hooks import WriterHooks as WriterHooks
from espnet3.parallel.writer_hooks import concatenate_shard_files as concatenate_shard_files
