// The energies a layer may have, in the one order that traces and tables use.
#pragma once

#include <string>

namespace edge_eds {

enum head_id { HEAD_HARM = 0, HEAD_HARM_MESSAGE = 1, HEAD_FR = 2, HEAD_JB = 3, HEAD_MERGED = 4 };

const int n_heads = 5;

// "harm", "harm_message", "fr", "jb", "merged"
const char * head_name(int head);

// Throws std::invalid_argument for any other name.
int head_from_name(const std::string & name);

} // namespace edge_eds
