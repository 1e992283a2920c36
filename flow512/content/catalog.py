"""
The catalog: what is known of the files in the shares, so that nothing is hashed twice.

For every file it remembers a stamp: what the system said of the file when it was looked at. As
long as the stamp is the same, the file is taken to be the same, and its digests stand. Digests
belong to contents, not to files: two files with the same bytes share them.

It is a memory, not a record: all that is in it can be had again from the files. So if its
database is damaged, an empty one takes its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from flow512.content.database import IN_MEMORY, Database
from flow512.content.tree import Tree
from flow512.wire.messages import Entry

__all__ = ["IN_MEMORY", "Catalog", "Content", "Known", "Stamp"]

_VERSION: Final = 1
"""To be raised whenever the tables change."""

# Text is compared byte by byte (BINARY), and UTF-8 sorts as its code points do: the order that
# listings have on the wire.
_SCHEMA: Final = (
    """
    CREATE TABLE contents (
        id INTEGER PRIMARY KEY,
        root BLOB NOT NULL UNIQUE,
        size INTEGER NOT NULL,
        md5 BLOB
    )
    """,
    """
    CREATE TABLE pages (
        content INTEGER NOT NULL REFERENCES contents ON DELETE CASCADE,
        level INTEGER NOT NULL,
        number INTEGER NOT NULL,
        digests BLOB NOT NULL,
        UNIQUE (content, level, number)
    )
    """,
    """
    CREATE TABLE files (
        share BLOB NOT NULL,
        path TEXT NOT NULL,
        size INTEGER NOT NULL,
        mtime INTEGER NOT NULL,
        inode INTEGER NOT NULL,
        content INTEGER REFERENCES contents ON DELETE SET NULL,
        PRIMARY KEY (share, path)
    ) WITHOUT ROWID
    """,
    # The primary key is part of it, as in every index of a table without row ids.
    "CREATE INDEX files_by_content ON files (content)",
)

_KNOWN: Final = """
    SELECT files.path, files.size, files.mtime, files.inode, contents.root, contents.md5
    FROM files LEFT JOIN contents ON contents.id = files.content
"""


# Content by content, whatever SQLite reckons: all files of a share may have one of them.
_FIRST_HOLDERS: Final = """
    SELECT files.path, files.size, files.mtime, files.inode, contents.root, contents.md5
    FROM contents CROSS JOIN files ON files.share = ?1 AND files.path =
        (SELECT path FROM files WHERE content = contents.id AND share = ?1 ORDER BY path LIMIT 1)
    WHERE contents.root IN
"""


class Stamp(NamedTuple):
    """
    What the system says of a file, by which a change is noticed.

    @ivar size: bytes.
    @ivar mtime: nanoseconds since 1970 (UTC), cut to 64 bits.
    @ivar inode: the number of the file on its device, taken as a signed number of 64 bits. The
        device's own number is left out: it may be another after every mount.
    """

    size: int
    mtime: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """
        Take the stamp of a file.
        """
        mtime, inode = status.st_mtime_ns, status.st_ino
        if not -(2**63) <= mtime < 2**63:
            mtime = -(2**63) if mtime < 0 else 2**63 - 1
        return cls(status.st_size, mtime, inode if inode < 2**63 else inode - 2**64)


class Known(msgspec.Struct, frozen=True):
    """
    What is known of a file.

    @ivar path: inside its share.
    @ivar stamp: of the file when it was last looked at.
    @ivar root: the content id; L{None} until it has been hashed.
    @ivar md5: L{None} until it has been computed.
    """

    path: str
    stamp: Stamp
    root: bytes | None
    md5: bytes | None

    def entry(self) -> Entry:
        """
        Say it in the wire's terms.
        """
        return Entry(self.path, self.stamp.size, self.stamp.mtime, self.root, self.md5)


class Content(NamedTuple):
    """
    What is known of a content.

    @ivar size: bytes.
    @ivar md5: L{None} until it has been computed.
    """

    size: int
    md5: bytes | None


class Catalog:
    """
    The catalog's database. Any thread may use it; they take turns.

    Every method raises L{flow512.errors.ResourceFailure} when the database cannot be read or
    written: nothing has changed then. When it turns out to be damaged, the catalog is empty from
    then on, until the shares are walked again.

    A share goes by a key: bytes that its folder always has, and no other.
    """

    def __init__(
        self, path: str | os.PathLike[str], on_damage: Callable[[str], None] | None = None
    ) -> None:
        """
        @param path: the database's file, made if it is not there; or L{IN_MEMORY}.
        @param on_damage: told in one sentence when a damaged database was moved aside, on the
            thread that noticed; it may take note, and must not block.
        @raise flow512.errors.ResourceFailure: it cannot be opened or made.
        """
        self._database = Database(path, _SCHEMA, _VERSION, on_damage)

    def close(self) -> None:
        """
        Close the database, which leaves no journal beside it; a second time does nothing.
        """
        self._database.close()

    # Files

    def find(self, share: bytes, path: str) -> Known | None:
        """
        Look a file up.
        """
        with self._database.reading() as database:
            row = database.execute(
                f"{_KNOWN} WHERE share = ? AND path = ?",
                (share, path),
            ).fetchone()
        return None if row is None else _known(row)

    def listing(self, share: bytes, prefix: str, after: str, limit: int) -> list[Known]:
        """
        List a share's files in the order of their paths.

        @param prefix: only paths that begin with this.
        @param after: only paths after this one; empty from the start.
        @param limit: at most so many.
        """
        start = max(prefix, after + "\0") if after else prefix
        with self._database.reading() as database:
            rows = database.execute(
                f"{_KNOWN} WHERE share = ? AND path >= ? AND path < ? ORDER BY path LIMIT ?",
                (share, start, _end_of(prefix), limit),
            ).fetchall()
        return [_known(row) for row in rows]

    def holders(self, share: bytes, root: bytes, limit: int) -> list[Known]:
        """
        List files of a share that had a content when they were last looked at.

        @param limit: at most so many.
        """
        with self._database.reading() as database:
            rows = database.execute(
                f"{_KNOWN} WHERE root = ? AND share = ? ORDER BY path LIMIT ?",
                (root, share, limit),
            ).fetchall()
        return [_known(row) for row in rows]

    def first_holders(self, share: bytes, roots: Sequence[bytes]) -> dict[bytes, Known]:
        """
        Find one file of a share for each of some contents, the first in the order of paths.

        @param roots: the contents, at most a hundred.
        @return: by root; what no file had when it was last looked at is not in it.
        """
        with self._database.reading() as database:
            rows = database.execute(
                f"{_FIRST_HOLDERS} ({','.join('?' * len(roots))})", (share, *roots)
            ).fetchall()
        return {row[4]: _known(row) for row in rows}

    def stamps(self, share: bytes, after: str, last: str | None) -> dict[str, Stamp]:
        """
        Give the stamps of a share's files, by path.

        @param after: only paths after this one; empty from the start.
        @param last: only paths up to this one; L{None} to the end.
        """
        with self._database.reading() as database:
            rows = database.execute(
                "SELECT path, size, mtime, inode FROM files"
                " WHERE share = ? AND path > ? AND path < ?",
                (share, after, b"" if last is None else last + "\0"),
            ).fetchall()
        return {row[0]: Stamp(*row[1:]) for row in rows}

    def between(self, share: bytes, first: str, last: str) -> dict[str, Known]:
        """
        Give what is known of a share's files, by path.

        @param first: only paths from this one on.
        @param last: only paths up to this one.
        """
        with self._database.reading() as database:
            rows = database.execute(
                f"{_KNOWN} WHERE share = ? AND path >= ? AND path <= ?", (share, first, last)
            ).fetchall()
        return {known.path: known for known in map(_known, rows)}

    def update(
        self,
        share: bytes,
        seen: Mapping[str, Stamp],
        gone: Collection[str],
        moved: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """
        Take note of what a share's folder has, all of it or nothing.

        @param seen: the stamps of files that are new or have changed; what was known of their
            content is forgotten, unless it was found under the same stamp.
        @param gone: files that are no longer there.
        @param moved: for some of C{seen}, the path that had this stamp before: what is known of
            that one's content holds for the new path.
        """
        with self._database.writing() as database:
            contents = [
                (row[0], share, path)
                for path, before in moved.items()
                for row in database.execute(
                    "SELECT content FROM files WHERE share = ? AND path = ?"
                    " AND size = ? AND mtime = ? AND inode = ?",
                    (share, before, *seen[path]),
                )
            ]
            database.executemany(
                "INSERT INTO files (share, path, size, mtime, inode)"
                " VALUES (?, ?, ?, ?, ?) ON CONFLICT (share, path) DO UPDATE SET"
                " size = excluded.size, mtime = excluded.mtime, inode = excluded.inode,"
                " content = NULL WHERE (files.size, files.mtime, files.inode)"
                " != (excluded.size, excluded.mtime, excluded.inode)",
                ((share, path, *stamp) for path, stamp in seen.items()),
            )
            database.executemany(
                "DELETE FROM files WHERE share = ? AND path = ?", ((share, path) for path in gone)
            )
            database.executemany(
                "UPDATE files SET content = coalesce(content, ?) WHERE share = ? AND path = ?",
                contents,
            )

    def count(self, share: bytes) -> int:
        """
        Say how many files a share has.
        """
        with self._database.reading() as database:
            row = database.execute(
                "SELECT count(*) FROM files WHERE share = ?", (share,)
            ).fetchone()
        count: int = row[0]
        return count

    def has_files(self, share: bytes) -> bool:
        """
        Say whether a share has any file.
        """
        with self._database.reading() as database:
            row = database.execute("SELECT 1 FROM files WHERE share = ? LIMIT 1", (share,))
            return row.fetchone() is not None

    # What is left to hash

    def unhashed(self, share: bytes, after: str, limit: int) -> list[str]:
        """
        List the paths of files that have no root yet, in order.

        @param after: only paths after this one; empty from the start.
        @param limit: at most so many.
        """
        with self._database.reading() as database:
            rows = database.execute(
                "SELECT path FROM files WHERE content IS NULL AND share = ? AND path > ?"
                " ORDER BY path LIMIT ?",
                (share, after, limit),
            ).fetchall()
        return [row[0] for row in rows]

    def unhashed_count(self, share: bytes) -> int:
        """
        Say how many files have no root yet.
        """
        with self._database.reading() as database:
            row = database.execute(
                "SELECT count(*) FROM files WHERE content IS NULL AND share = ?", (share,)
            ).fetchone()
        count: int = row[0]
        return count

    def record(
        self, share: bytes, path: str, stamp: Stamp, tree: Tree, md5: bytes | None = None
    ) -> bool:
        """
        Remember what was found by hashing a file.

        @param stamp: the file's, before and after it was hashed.
        @return: whether it was kept; it is not if the file was seen with another stamp meanwhile,
            or is gone.
        """
        with self._database.writing() as database:
            row = database.execute(
                "SELECT size, mtime, inode FROM files WHERE share = ? AND path = ?",
                (share, path),
            ).fetchone()
            if row is None or Stamp(*row) != stamp:
                return False
            database.execute(
                "INSERT INTO contents (root, size, md5) VALUES (?, ?, ?) ON CONFLICT (root)"
                " DO UPDATE SET md5 = coalesce(excluded.md5, md5)",
                (tree.root, tree.shape.size, md5),
            )
            content = database.execute(
                "SELECT id FROM contents WHERE root = ?", (tree.root,)
            ).fetchone()[0]
            database.executemany(
                "INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?)",
                (
                    (content, level, number, tree.page(level, number))
                    for level in range(tree.shape.levels)
                    for number in range(tree.shape.pages(level))
                ),
            )
            database.execute(
                "UPDATE files SET content = ? WHERE share = ? AND path = ?", (content, share, path)
            )
        return True

    # Contents

    def roots(self, share: bytes, after: bytes, limit: int) -> list[bytes]:
        """
        List the roots of a share's files, each once, in their order.

        @param after: only roots after this one; empty from the start.
        @param limit: at most so many.
        """
        with self._database.reading() as database:
            rows = database.execute(
                "SELECT root FROM contents WHERE root > ? AND EXISTS"
                " (SELECT 1 FROM files WHERE files.content = contents.id AND files.share = ?)"
                " ORDER BY root LIMIT ?",
                (after, share, limit),
            ).fetchall()
        return [row[0] for row in rows]

    def content(self, root: bytes) -> Content | None:
        """
        Look a content up.
        """
        with self._database.reading() as database:
            row = database.execute(
                "SELECT size, md5 FROM contents WHERE root = ?", (root,)
            ).fetchone()
        return None if row is None else Content(*row)

    def page(self, root: bytes, level: int, index: int) -> bytes | None:
        """
        Look a page of digests up.
        """
        with self._database.reading() as database:
            row = database.execute(
                "SELECT digests FROM pages WHERE level = ? AND number = ?"
                " AND content = (SELECT id FROM contents WHERE root = ?)",
                (level, index, root),
            ).fetchone()
        return None if row is None else row[0]

    def without_md5(self, after: bytes) -> bytes | None:
        """
        Find a content that has no MD5 yet.

        @param after: only roots after this one; empty from the start.
        @return: the first root, in their order; L{None} if there is none.
        """
        with self._database.reading() as database:
            row = database.execute(
                "SELECT root FROM contents WHERE md5 IS NULL AND root > ? ORDER BY root LIMIT 1",
                (after,),
            ).fetchone()
        return None if row is None else row[0]

    def set_md5(self, root: bytes, md5: bytes) -> None:
        """
        Remember the MD5 of a content, if the content is known.
        """
        with self._database.writing() as database:
            database.execute("UPDATE contents SET md5 = ? WHERE root = ?", (md5, root))

    def forget(self, root: bytes) -> None:
        """
        Forget a content; files that had it have to be hashed again.
        """
        with self._database.writing() as database:
            database.execute("DELETE FROM contents WHERE root = ?", (root,))

    def prune(self) -> None:
        """
        Forget the contents that no file has any more.
        """
        with self._database.writing() as database:
            database.execute(
                "DELETE FROM contents WHERE NOT EXISTS"
                " (SELECT 1 FROM files WHERE files.content = contents.id)"
            )


def _known(row: tuple[str, int, int, int, bytes | None, bytes | None]) -> Known:
    path, size, mtime, inode, root, md5 = row
    return Known(path, Stamp(size, mtime, inode), root, md5)


def _end_of(prefix: str) -> str | bytes:
    """Give the least value that sorts after every text with a prefix."""
    while prefix:
        last = ord(prefix[-1]) + 1
        prefix = prefix[:-1]
        if last <= 0x10FFFF:
            # No text has surrogates (0xD800 to 0xDFFF): after them comes 0xE000.
            return prefix + chr(0xE000 if last == 0xD800 else last)
    return b""  # to SQLite, every BLOB sorts after every TEXT
