"""
The powers of 512 that files are measured in::

    piece   512 bytes        what files are addressed in
    block   512 pieces       256 KiB, what is verified
    page    512 digests      16 KiB, what the hash tree travels in
"""

from __future__ import annotations

from typing import Final

PIECE: Final = 512
"""Bytes in a piece; only the last piece of a file may be shorter."""

PIECES_PER_BLOCK: Final = 512
BLOCK: Final = PIECE * PIECES_PER_BLOCK
"""Bytes in a block (256 KiB); only the last block of a file may be shorter."""

LONGEST_RUN: Final = 4 * PIECES_PER_BLOCK
"""Pieces that travel in one frame, at most: four blocks (1 MiB)."""

DIGEST: Final = 32
"""Bytes in a digest of the tree."""

DIGESTS_PER_PAGE: Final = 512
PAGE: Final = DIGEST * DIGESTS_PER_PAGE
"""Bytes in a full page of digests (16 KiB)."""

MAX_FILE_SIZE: Final = 2**63 - 1
"""Bytes; the largest offset that operating systems can address."""
