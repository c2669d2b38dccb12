"""Builds the optional C library into a wheel, or into the tree for an editable install, if a compiler is there."""

import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SpeedupsHook(BuildHookInterface):  # type: ignore[type-arg]  # its configuration is nobody's business here
    """Without a compiler, or with ``SIPDUMP_PURE=1``, the wheel is one of Python alone."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the library, and have the wheel named for this platform."""
        sys.path.insert(0, str(Path(self.root, "backends/parquet")))
        from sipdump_speedups import LIBRARY, is_wanted  # noqa: PLC0415 - it is found only now
        from sipdump_speedups.build import build  # noqa: PLC0415

        self._folder = tempfile.TemporaryDirectory()
        target = LIBRARY if version == "editable" else Path(self._folder.name, LIBRARY.name)
        refusal = build(target) if is_wanted() else "SIPDUMP_PURE is set"
        if refusal:
            self.app.display_debug(f"without speedups: {refusal}")
        elif version != "editable":
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"
            build_data["force_include"][str(target)] = f"{LIBRARY.parent.name}/{LIBRARY.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - hatchling's
        """Remove what was built outside the tree."""
        self._folder.cleanup()
