"""
Who a node is: its names, its key, and the state folder that keeps it.

A node is its Ed25519 key (RFC 8032). Its node id is the SHA-256 digest of the public key, as the
DER form of a SubjectPublicKeyInfo (RFC 8410); so it is the pin of RFC 7469 of the certificate. The
certificate is signed by the key itself and says nothing that the key does not say: TLS wants one.
As Ed25519 signs without any randomness, the same key always gives the same certificate.
"""

from __future__ import annotations

import datetime
import fcntl
import os
import stat
from hashlib import sha256
from typing import Final

import platformdirs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from flow512.content.paths import escape
from flow512.errors import Misuse, StateInUse, Violation, from_os_error
from flow512.link.introduction import MAX_NAME
from flow512.link.secret_file import read_secret, write_new_secret

ID_SIZE: Final = 32
"""Bytes in a node id."""

SEED_SIZE: Final = 32
"""Bytes that an Ed25519 key is made from."""

_IDENTITY_FILE: Final = "identity.pem"
_LOCK_FILE: Final = "lock"

_SUBJECT: Final = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "flow512")])
# RFC 5280, 4.1.2.5: the end of a certificate that has none. A key does not age by the clock.
_NOT_BEFORE: Final = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


def default_state() -> str:
    """
    Give the state folder of a node whose user names none: the usual place of this system.
    """
    return platformdirs.user_state_dir("flow512", appauthor=False)


def default_registry_state() -> str:
    """
    Likewise for a registry by itself, which may run beside a node.
    """
    return platformdirs.user_state_dir("flow512-registry", appauthor=False)


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
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


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
    @ivar certificate: signed with it.
    @ivar node: the node id, 32 bytes.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        """
        @param key: the private key.
        """
        self.key = key
        self.node = _node_id(key.public_key())
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(_SUBJECT)
            .issuer_name(_SUBJECT)
            .public_key(key.public_key())
            .serial_number(int.from_bytes(self.node[:8], "big") | 1)
            .not_valid_before(_NOT_BEFORE)
            .not_valid_after(_NOT_AFTER)
            .sign(key, None)
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
        try:
            key = load_pem_private_key(text, None)
        except TypeError:
            raise ValueError("the key is encrypted") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("the key is not Ed25519")
        return cls(key)

    def pem(self) -> bytes:
        """
        Write the private key and the certificate, as openssl and everybody else read them.
        """
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key + self.certificate.public_bytes(Encoding.PEM)


def _make_folder(path: str) -> str:
    path = os.path.abspath(path)
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        mode = os.stat(path).st_mode
    except (FileExistsError, NotADirectoryError):
        raise _no_folder(path) from None
    except OSError as error:
        raise from_os_error(error, f"opening the state folder '{escape(path)}'") from None
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
