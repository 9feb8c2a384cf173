"""llama.cpp's own server, a real OpenAI and Anthropic far end: llama_server.py MODEL prints its address."""

import sys

import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.model_alias = {"smollm2"}
params.n_ctx = 2 * 8192
params.n_parallel = 2
params.kv_unified = False  # with it an answer depends on those beside it
params.cpuparams.n_threads = 1
params.endpoint_slots = True  # /slots says what it computes
params.warmup = False
params.verbosity = -1
params.port = 0
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
