"""How programs of tests are compiled, in their own process and in those they start."""

# Tests compile far more than they compute: without LLVM's optimisations, which change
# neither a program's operations nor its memory, a file of them takes a third less.
XLA_FLAGS = "--xla_backend_optimization_level=0"
EIGHT_DEVICES = f"{XLA_FLAGS} --xla_force_host_platform_device_count=8"
