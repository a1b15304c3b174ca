"""Python reads this when it starts with the folder on PYTHONPATH: faults of the storage, if any."""

import os

if os.environ.get("ESPNET3_TEST_FAULTS"):
    from tests.support.faulty_store import install_from_environment

    install_from_environment()
