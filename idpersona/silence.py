"""Keeping what libraries print of their own away from standard error."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_LOCK = threading.Lock()


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Send what is written to file descriptor 2 nowhere, for the whole process and a short time."""
    with _LOCK:
        try:
            kept = os.dup(2)
        except OSError:  # a program without standard error: nothing to silence
            yield
            return
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def quiet_libraries() -> None:
    """Keep the chatter of diffusers and transformers off stderr: what matters is said by us."""
    import logging
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore")
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity(logging.CRITICAL)
        library.disable_progress_bar()
    # Prompts that are cut are reported by us, with what is cut.
    logging.getLogger("transformers.tokenization_utils_base").setLevel(logging.ERROR)


@contextlib.contextmanager
def library_warnings() -> Iterator[list[str]]:
    """Collect what diffusers warns of, one line each, instead of printing it."""
    import logging

    heard: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(" ".join(record.getMessage().split())[:300])

    logger = logging.getLogger("diffusers")
    level, handlers = logger.level, logger.handlers[:]
    logger.setLevel(logging.WARNING)
    logger.handlers[:] = [Listener()]
    try:
        yield heard
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)
