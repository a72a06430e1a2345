"""Eight simulated devices, quick compilation, and a cache of it outside the clone."""

import os
import pathlib

# Tests compile far more than they compute: without LLVM's optimisations, which change
# neither programs nor their memory, they need about half the time.
_FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{_FLAGS} {os.environ.get('XLA_FLAGS', '')}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_CACHE = pathlib.Path(
    os.environ.get("RLJAX_XLA_CACHE", pathlib.Path.home() / ".cache" / "rljax-xla")
)

import jax  # noqa: E402  (the flags above must be set first)

jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
