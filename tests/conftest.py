"""Eight simulated devices, quick compilation, and its cache, which outlives the clone.

Most of the suite's time is LLVM's, so it is told not to optimise, which halves the
whole. `XLA_FLAGS=--xla_backend_optimization_level=3 make test` tests what users run, as
the runs of tests/experiments/test_runs.py always do.
"""

import os
import pathlib

_FLAGS = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
if "xla_backend_optimization_level" not in _FLAGS:
    _FLAGS += " --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = _FLAGS
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_CACHE = pathlib.Path(
    os.environ.get("RLJAX_XLA_CACHE", pathlib.Path.home() / ".cache" / "rljax-xla")
)

import jax  # noqa: E402  (the flags above must be set first)

jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
