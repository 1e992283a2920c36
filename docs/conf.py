"""Settings of Sphinx; the API pages are pydoctor's (see pyproject.toml)."""

from __future__ import annotations

import re
from pathlib import Path

_VERSION = Path(__file__).parents[1] / "flow512" / "_version.py"

project = "flow512"
author = "The flow512 developers"
copyright = f"2026, {author}"
release = re.findall(r'__version__.*= "(.+)"', _VERSION.read_text(encoding="utf-8"))[0]
version = release

html_theme = "alabaster"
html_theme_options = {
    "description": "Peer-to-peer file sharing in 512-byte pieces, on Twisted",
    "page_width": "60rem",
}
exclude_patterns = ["_build", "api"]
