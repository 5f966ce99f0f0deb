"""Bases and adapters in memory: loaded once, and given back when another base is wanted."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from idpersona.errors import BadInput
from idpersona.jobs.listener import Listener
from idpersona.silence import library_warnings, quiet_libraries


class Models:
    """One base and its adapters. Whoever draws leaves both as they were, so that the next can use them.

    Not for several threads at once: a pipeline draws one thing at a time.
    """

    def __init__(self) -> None:
        self._key: tuple[str, str, str | None] | None = None
        self._pipe: Any = None
        self._adapters: dict[str, Any] = {}

    @property
    def base(self) -> str | None:
        """Name of the base in memory."""
        return None if self._key is None else self._key[0]

    def load(
        self,
        base: str,
        adapters: Sequence[str],
        listener: Listener,
        *,
        device: str | None = None,
        dtype: str | None = None,
    ) -> tuple[Any, list[Any], str]:
        """The pipeline of a base, adapters for it, and the device that they are on.

        Args:
            base, adapters: registry names, folders or hub ids.
            listener: is told when something has to be loaded.
            device, dtype: None for the best here, and the one that suits it.
        """
        from idpersona.devices import best_device

        quiet_libraries()
        device = device or best_device()
        key = (base, device, dtype)
        if self._key == key and all(name in self._adapters for name in adapters):
            return self._pipe, [self._adapters[name] for name in adapters], device
        started = time.monotonic()
        names = ", ".join((base, *adapters))
        with listener.loading(names):
            from idpersona.adapters import load_adapter
            from idpersona.pipelines import load_base

            if self._key != key:
                self.clear()
                pipe: Any = load_base(base, device=device, dtype=dtype)
                pipe.set_progress_bar_config(disable=True)
                self._key, self._pipe = key, pipe
            for name in adapters:
                if name not in self._adapters:
                    self._adapters[name] = load_adapter(name, base=self._pipe)
        listener.loaded(names, device, time.monotonic() - started)
        return self._pipe, [self._adapters[name] for name in adapters], device

    def clear(self) -> None:
        """Give the memory of base and adapters back."""
        on = None if self._key is None else self._key[1]
        self._key, self._pipe = None, None
        self._adapters.clear()
        gc.collect()
        if on is not None and on.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()


@contextmanager
def loras_on(pipe: Any, base: str, loras: Sequence[tuple[Path, float]], listener: Listener) -> Iterator[None]:
    """The scope in which LoRA files (path, weight) are in the pipeline.

    Raises:
        BadInput: peft is not installed, or a file does not fit the base.
    """
    if not loras:
        yield
        return
    if find_spec("peft") is None:
        raise BadInput("--lora needs the package peft: pip install 'idpersona[train]'")
    names: list[str] = []
    try:
        for index, (file, _) in enumerate(loras):
            names.append(f"lora{index}")
            try:
                with library_warnings() as heard:
                    pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=names[-1])
            except Exception as error:  # diffusers, peft and safetensors share no error type for a bad file
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                raise BadInput(f"LoRA {file} does not fit base '{base}': {reason}") from error
            for warning in heard:  # above all that a part of the file fits nothing in the base
                listener.note(f"LoRA {file}: {warning}")
        pipe.set_adapters(names, [weight for _, weight in loras])
        yield
    finally:
        pipe.unload_lora_weights()
