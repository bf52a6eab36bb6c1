"""The OpenAI-compatible server of `edge-eds serve`."""
