"""What `edge-eds run` does, as one would write it with llama-cpp-python alone: a peer that is started.

Run as a script: `python bare_run.py GGUF LORA CHAT_FORMAT N_THREADS N_CTX N_NEW PROMPT`; LORA and CHAT_FORMAT may be
empty.
"""

from __future__ import annotations

import sys

from llama_cpp import Llama


def main(gguf: str, lora: str, chat_format: str, n_threads: str, n_ctx: str, n_new: str, prompt: str) -> None:
    """Stream one answer."""
    llm = Llama(
        gguf,
        lora_path=lora or None,
        chat_format=chat_format or None,
        n_ctx=int(n_ctx),
        n_threads=int(n_threads),
        n_threads_batch=int(n_threads),
        verbose=False,
    )
    parts = llm.create_chat_completion(
        [{"role": "user", "content": prompt}], max_tokens=int(n_new), temperature=0.0, stream=True
    )
    for part in parts:
        print(part["choices"][0]["delta"].get("content", ""), end="", flush=True)  # type: ignore[index,union-attr]


if __name__ == "__main__":
    main(*sys.argv[1:])
