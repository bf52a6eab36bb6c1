"""The running model: a llama.cpp session whose hidden states can be read and steered."""
