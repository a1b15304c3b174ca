# The public names, written once: type checkers read them here, and so does `espnet3._lazy`.
from espnet3.collect.in_memory import to_dataset as to_dataset
from espnet3.collect.in_memory import to_pandas as to_pandas
from espnet3.collect.kaldi import to_kaldi as to_kaldi
from espnet3.collect.log_files import logs as logs
from espnet3.collect.merge import Collected as Collected
from espnet3.collect.merge import collect as collect
from espnet3.collect.merge import stream as stream
from espnet3.collect.vouching import PartialResults as PartialResults
from espnet3.run_dir.result_lines import ResultRecord as ResultRecord
from espnet3.specs.models import ErrorRecord as ErrorRecord
from espnet3.status.run_status import RunStatus as RunStatus
from espnet3.status.run_status import ShardStatus as ShardStatus
from espnet3.status.watching import status as status
from espnet3.status.watching import watch as watch
