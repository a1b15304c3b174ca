"""`python -m espnet3`: the same as `espnet3`."""

from espnet3.cli import main

main()
