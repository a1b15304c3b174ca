"""One suite per port; each backend is a subclass of it."""

import pytest

pytest.register_assert_rewrite("tests.contract.store_contract")
