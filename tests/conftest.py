"""Eight simulated devices, quick compilation, and a cache of it outside the clone."""

import os
import pathlib

from tests import quick

os.environ["XLA_FLAGS"] = f"{quick.EIGHT_DEVICES} {os.environ.get('XLA_FLAGS', '')}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_CACHE = pathlib.Path(
    os.environ.get("RLJAX_XLA_CACHE", pathlib.Path.home() / ".cache" / "rljax-xla")
)

import jax  # noqa: E402  (the flags above must be set first)

jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
