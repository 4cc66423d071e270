"""`python -m bacalhau_daemon`."""

from bacalhau_daemon.cli import main

main()
