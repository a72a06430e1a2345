"""Eight simulated devices, and a compilation cache that outlives the clone."""

import os
import pathlib

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_CACHE = pathlib.Path(
    os.environ.get("RLJAX_XLA_CACHE", pathlib.Path.home() / ".cache" / "rljax-xla")
)

import jax  # noqa: E402  (the flags above must be set first)

jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
