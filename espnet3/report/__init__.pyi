# The public names, written once: type checkers read them here, and so does `espnet3._lazy`.
from espnet3.report.calls import render as render
from espnet3.report.calls import report as report
