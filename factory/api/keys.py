"""The key that clients of the API send: made at random on first use, kept in a file that only its owner can read."""

import hmac
import os
import secrets
from pathlib import Path

from factory import store
from factory.errors import UsageError

KEY_BYTES = 32


def key_file() -> Path:
    """Return where the key is kept."""
    return store.cache_folder() / "api.key"


def read_key(path: Path | None = None) -> str:
    """Return the key of this user, made on first use.

    Raises:
        UsageError: the file can be read by others, or holds no key.
    """
    path = path or key_file()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(KEY_BYTES) + "\n")
        temporary.replace(path)
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise UsageError(
            f"The key file {path} can be read by others: chmod 600 it, or delete it to get a new key"
        )
    key = path.read_text(encoding="utf-8").strip()
    if len(key) < KEY_BYTES:
        raise UsageError(
            f"The key file {path} holds no key of {KEY_BYTES} characters: delete it to get a new one"
        )
    return key


def is_key(given: str, key: str) -> bool:
    """Tell whether a given text is the key, in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), key.encode())
