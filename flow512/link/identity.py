"""
Who a node is: its names, its key, and the state folder that keeps it.

A node is its Ed25519 key (RFC 8032). Its node id is the SHA-256 digest of the public key, as the
DER form of a SubjectPublicKeyInfo (RFC 8410); so it is the pin of RFC 7469 of the certificate. The
certificate is signed by the key itself and says nothing that the key does not say: TLS wants one.
As Ed25519 signs without any randomness, the same key always gives the same certificate.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from flow512.content.paths import escape
from flow512.errors import DiskFailure, Misuse, StateInUse, Violation, from_os_error
from flow512.link.introduction import MAX_NAME
from flow512.link.secret_file import read_secret, write_new_secret

if TYPE_CHECKING:
    from cryptography import x509

ID_SIZE: Final = 32
"""Bytes in a node id."""

SEED_SIZE: Final = 32
"""Bytes that an Ed25519 key is made from."""

# RFC 8410, sections 4 and 7: what stands before the 32 bytes of a public and of a private key.
_PUBLIC_DER: Final = bytes.fromhex("302a300506032b6570032100")
_PRIVATE_DER: Final = bytes.fromhex("302e020100300506032b657004220420")
_PEM: Final = re.compile(
    b"-----BEGIN PRIVATE KEY-----\n([A-Za-z0-9+/]{64})\n-----END PRIVATE KEY-----\n"
)

_IDENTITY_FILE: Final = "identity.pem"
_LOCK_FILE: Final = "lock"


def default_state() -> str:
    """
    Give the state folder of a node whose user names none: the usual place of this system.
    """
    return _state_folder("flow512")


def default_registry_state() -> str:
    """
    Likewise for a registry by itself, which may run beside a node.
    """
    return _state_folder("flow512-registry")


def _state_folder(name: str) -> str:
    import platformdirs  # which takes a while to load

    return platformdirs.user_state_dir(name, appauthor=False)


def check_names(*names: str) -> None:
    """
    Check what a user calls a node or a network.

    @raise Misuse: a name is too long, or holds what is no text; nobody would take its hello.
    """
    for name in names:
        if len(name) > MAX_NAME:
            raise Misuse(f"Names of nodes and networks have at most {MAX_NAME} characters.")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise Misuse(f"'{escape(name)}' is no text, and so no name; type another.") from None


def _node_id(key: Ed25519PublicKey) -> bytes:
    return sha256(_PUBLIC_DER + key.public_bytes_raw()).digest()


def node_of_certificate(certificate: x509.Certificate) -> bytes:
    """
    Tell whose certificate it is. That the other side has the key is TLS's to prove.

    @return: the node id.
    @raise Violation: its key is none that nodes have.
    """
    try:
        key = certificate.public_key()
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise Violation("The other side's certificate is no node's: its key is not Ed25519.")
    return _node_id(key)


class Identity:
    """
    A node's key, and what follows from it.

    @ivar key: the private key.
    @ivar node: the node id, 32 bytes.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        """
        @param key: the private key.
        """
        self.key = key
        self.node = _node_id(key.public_key())

    @cached_property
    def certificate(self) -> x509.Certificate:
        """The certificate, signed with the key; TLS alone needs it."""
        from cryptography import x509  # which takes a while to load

        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "flow512")])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(self.key.public_key())
            .serial_number(int.from_bytes(self.node[:8], "big") | 1)
            # A key does not age by the clock. RFC 5280, 4.1.2.5, has the end of one that has none.
            .not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
            .sign(self.key, None)
        )

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """
        Make an identity.

        @param seed: L{SEED_SIZE} random bytes; the same ones give the same identity.
        """
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_pem(cls, text: bytes) -> Identity:
        """
        Read what L{pem} wrote.

        @raise ValueError: there is no Ed25519 private key in it.
        """
        plain = _PEM.match(text)
        if plain is not None and (der := b64decode(plain[1])).startswith(_PRIVATE_DER):
            return cls.from_seed(der.removeprefix(_PRIVATE_DER))
        # Another's way to write one; what reads them all takes a while to load.
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(text, None)
        except TypeError:
            raise ValueError("the key is encrypted") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("the key is not Ed25519")
        return cls(key)

    def pem(self) -> bytes:
        """
        Write the private key, as openssl and everybody else read it (PKCS #8, RFC 5958).
        """
        text = b64encode(_PRIVATE_DER + self.key.private_bytes_raw())
        return b"-----BEGIN PRIVATE KEY-----\n%s\n-----END PRIVATE KEY-----\n" % text


def _make_folder(path: str) -> str:
    path = os.path.abspath(path)
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        mode = os.stat(path).st_mode
    except (FileExistsError, NotADirectoryError):
        raise _no_folder(path) from None
    except OSError as error:
        doing = f"opening the state folder '{escape(path)}'"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise DiskFailure(
                f"{error.strerror} while {doing}; give another with --state."
            ) from None
        raise from_os_error(error, doing) from None
    if mode & stat.S_IWOTH:
        raise Misuse(
            f"Everybody can change what is in the state folder '{escape(path)}';"
            f" make it yours with `chmod 700 '{escape(path)}'`, or give another with --state."
        )
    return path


def _no_folder(path: str) -> Misuse:
    return Misuse(f"'{escape(path)}' is no folder; give another with --state.")


def read_identity(path: str) -> Identity:
    """
    Find or make the identity in a state folder, which a node that runs may have taken.

    @param path: the folder; it and those above it are made if they are not there.
    @raise Misuse: it is no folder, others can read the identity, or what is in it is none.
    @raise ResourceFailure: it cannot be read or written.
    """
    return _identity_in(_make_folder(path))


def has_identity(path: str) -> bool:
    """
    Tell whether there is an identity in a state folder, whatever is in it.
    """
    return os.path.lexists(os.path.join(path, _IDENTITY_FILE))


def _identity_in(folder: str) -> Identity:
    path = os.path.join(folder, _IDENTITY_FILE)
    text = read_secret(path)
    if text is None:
        # Another process may be at it too; one of the two writes, and both read that.
        write_new_secret(path, Identity.from_seed(os.urandom(SEED_SIZE)).pem())
        text = read_secret(path) or b""
    try:
        return Identity.from_pem(text)
    except ValueError:
        raise Misuse(
            f"'{escape(path)}' holds no identity; put back the file that was there, or delete it,"
            " and the node gets a new identity."
        ) from None


class StateFolder:
    """
    The folder in which a node keeps what it has to remember. One node has it at a time.

    @ivar path: the folder.
    @ivar identity: the node's.
    """

    def __init__(self, path: str) -> None:
        """
        Make the folder if it is not there, take it, and find or make the identity.

        @param path: the folder; those above it are made as well.
        @raise StateInUse: another node has it.
        @raise Misuse: it is no folder, others can read what is secret in it, or what is in it is
            no identity.
        @raise ResourceFailure: it cannot be read or written.
        """
        self.path = _make_folder(path)
        try:
            self._lock = os.open(
                self.file(_LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except NotADirectoryError:
            raise _no_folder(self.path) from None
        except OSError as error:
            raise from_os_error(error, f"opening the state folder '{escape(self.path)}'") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.identity = _identity_in(self.path)
        except BlockingIOError:
            os.close(self._lock)
            raise StateInUse(
                f"Another node uses the state folder '{escape(self.path)}';"
                " stop it, or give this one another folder with --state."
            ) from None
        except OSError as error:
            os.close(self._lock)
            raise from_os_error(error, f"locking the state folder '{escape(self.path)}'") from None
        except BaseException:
            os.close(self._lock)
            raise

    def file(self, name: str) -> str:
        """
        Give the path of a file in the folder.
        """
        return os.path.join(self.path, name)

    def close(self) -> None:
        """
        Let other nodes have the folder.
        """
        os.close(self._lock)
