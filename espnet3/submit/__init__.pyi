# The public names, written once: type checkers read them here, and so does `espnet3._lazy`.
from espnet3.submit.cancellation import cancel as cancel
from espnet3.submit.launcher import Rendered as Rendered
from espnet3.submit.new_run import dry_run as dry_run
from espnet3.submit.new_run import submit as submit
from espnet3.submit.removal import Removed as Removed
from espnet3.submit.removal import remove as remove
from espnet3.submit.resumption import resume as resume
from espnet3.submit.submission import Submitted as Submitted
