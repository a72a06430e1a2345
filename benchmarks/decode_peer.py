"""The peer of generation: transformers, in a process and environment of its own.

Started by `benchmarks.decode` with the Python of that environment, it loads a model
folder and then answers requests, one JSON object a line, so that its turns can be
taken in between ours. It imports nothing of rljax and runs no code but this file.
"""

import importlib
import json
import sys
import time
import warnings
from typing import Any


def main() -> None:
    """Serves requests until there are no more."""
    torch = importlib.import_module("torch")
    import transformers

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder, threads, compiled = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "compile"
    torch.set_num_threads(threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    )
    model = model.eval()
    say({"torch": torch.__version__, "transformers": transformers.__version__})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            run = {"generate": by_generate, "batch": by_generate_batch}[request["way"]]
            torch.set_num_threads(request.get("threads", threads))
            start, cpu = time.perf_counter(), time.process_time()
            with torch.inference_mode():
                lengths = run(model, request, compiled)
            took = time.perf_counter() - start
            cpu = time.process_time() - cpu
            say({"seconds": took, "cpu": cpu, "lengths": lengths})
        except Exception as error:  # told to the benchmark, which prints it
            say({"error": f"{type(error).__name__}: {error}"[:300]})


def say(answer):
    """One line to the benchmark."""
    print(json.dumps(answer), flush=True)


def by_generate(model, request, compiled):
    """`generate`, a batch at a time, each as long as its longest text."""
    torch = importlib.import_module("torch")
    lengths = []
    options: dict[str, Any] = dict(
        do_sample=request["sample"], top_k=0, top_p=1.0, temperature=1.0,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    if not request["sample"]:
        options = dict(do_sample=False, eos_token_id=None, pad_token_id=0)
    if request.get("cache"):
        options["cache_implementation"] = request["cache"]
    if compiled and request.get("cache"):
        import transformers

        how: Any = transformers.CompileConfig(fullgraph=False)
        how._compile_all_devices = True  # without this it is for GPUs only
        options["compile_config"] = how
    else:
        options["disable_compile"] = True
    size = request["batch"]
    for i in range(0, len(request["prompts"]), size):
        ids = torch.tensor(request["prompts"][i : i + size])
        most = max(request["limits"][i : i + size])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, **options
        )
        lengths += [out.shape[1] - ids.shape[1]] * len(ids)
    return lengths


def by_generate_batch(model, request, compiled):
    """Continuous batching; each text with a limit of its own."""
    import transformers

    config = transformers.GenerationConfig(
        do_sample=request["sample"], eos_token_id=-1, pad_token_id=0,
        max_new_tokens=max(request["limits"]), use_cuda_graph=False,
        max_batch_tokens=request["batch_tokens"], num_blocks=request["blocks"],
    )  # fmt: skip
    manager = model.init_continuous_batching(generation_config=config)
    manager.start()
    try:
        pairs = zip(request["prompts"], request["limits"], strict=True)
        wanted = {
            manager.add_request(ids, max_new_tokens=limit): i
            for i, (ids, limit) in enumerate(pairs)
        }
        lengths = [0] * len(wanted)
        left = len(wanted)
        while left:
            result = manager.get_result(timeout=120)
            if result is None:
                raise TimeoutError("no result of continuous batching in 120 s")
            if result.is_finished():
                lengths[wanted[result.request_id]] = len(result.generated_tokens)
                left -= 1
    finally:
        manager.stop(block=True)
    return lengths


if __name__ == "__main__":
    main()
