"""Backends as a plan makes them."""

from pathlib import Path

import attrs
import pytest

from sipdump_core.drivers.base import Site
from sipdump_core.errors import DriverError
from sipdump_core.workshop import Workshop
from tests.core.support import Unmade, driver, plan


def test_a_backend_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    why = "the backend unmade of sipdump-unmade 1 cannot be made: RuntimeError: no connection"
    with pytest.raises(DriverError, match=why):
        Workshop(plan(tmp_path, Unmade)).check()
    with pytest.raises(DriverError, match=why):
        Workshop(attrs.evolve(plan(tmp_path, Unmade), chosen=[driver(Unmade)])).backends(Site(str(tmp_path), ""))
