"""What transformers and the hub say and draw while a model is loaded or saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging

from experiments.progress import is_quiet


@contextmanager
def quiet_transformers(download: bool = False) -> Iterator[None]:
    """Shows bars of progress for downloads, and none while weights are read from the disk or written; what is
    wrong with these is told in our words alone.

    Args:
        download: whether the hub may be asked.
    """
    shown = logging.is_progress_bar_enabled()
    verbosity, hub_verbosity = logging.get_verbosity(), hub_logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    hub_logging.set_verbosity(logging.CRITICAL)
    if not download or is_quiet():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if shown:
            logging.enable_progress_bar()
