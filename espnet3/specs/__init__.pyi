# The public names, written once: type checkers read them here, and so does `espnet3._lazy`.
# Those of `config`, `run_dir` and `storage` are old names, from before these rooms held them.
from espnet3.config.model import ParallelConfig as ParallelConfig
from espnet3.run_dir.result_lines import ResultRecord as ResultRecord
from espnet3.specs.models import AcceptedJobs as AcceptedJobs
from espnet3.specs.models import AttemptRecord as AttemptRecord
from espnet3.specs.models import Cancellation as Cancellation
from espnet3.specs.models import Receipt as Receipt
from espnet3.specs.models import RunSpec as RunSpec
from espnet3.specs.models import ShardSpec as ShardSpec
from espnet3.specs.models import Submission as Submission
from espnet3.storage.base import Store as Store
from espnet3.storage.opening import open_store as open_store
