"""Speed: what reading and steering hidden states cost beside plain llama.cpp, each measured in pairs."""
