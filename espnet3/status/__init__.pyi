# The public names, written once: type checkers read them here, and so does `espnet3._lazy`.
from espnet3.status.run_status import Progress as Progress
from espnet3.status.run_status import RunStatus as RunStatus
from espnet3.status.run_status import ShardStatus as ShardStatus
from espnet3.status.run_status import Silence as Silence
