"""Settings of the fast tests."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("core", deadline=None)  # a busy machine is slow now and then; that is no failure
settings.load_profile("core")
