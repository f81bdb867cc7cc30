"""Which error of a disk stands behind an exception, and what to do about it."""

import errno
import re

_OTHER = "set EVERGREEN_HOME to a folder"
REMEDIES = {
    errno.ENOSPC: f"the disk is full: free some space or {_OTHER} on another disk",
    errno.EDQUOT: f"the quota is used up: free some space or {_OTHER} on another disk",
    errno.EFBIG: f"a file is larger than the process or the disk allows: raise `ulimit -f` or {_OTHER} on another disk",
    errno.EROFS: f"the file system is read-only: {_OTHER} that can be written",
    errno.ENOTDIR: f"a part of the path is a file: {_OTHER} that can be written",
    errno.EACCES: f"no permission to write: {_OTHER} that can be written",
}


def errno_of(error: BaseException) -> int | None:
    """The number of an operating system's error; safetensors gives it in words only: `(os error 28)`."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None
