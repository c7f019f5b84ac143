"""The configuration of the documentation, which is built offline."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from VERSION import __version__

project = "massmigration"
author = "massmigration contributors"
copyright = f"2026, {author}"
release = __version__
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"massmigration {release}"
