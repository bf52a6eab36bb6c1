#include "heads.h"

#include <stdexcept>

namespace edge_eds {

static const char * const names[n_heads] = {"harm", "harm_message", "fr", "jb", "merged"};

const char * head_name(int head) {
    return names[head];
}

int head_from_name(const std::string & name) {
    for (int head = 0; head < n_heads; ++head) {
        if (name == names[head]) {
            return head;
        }
    }
    throw std::invalid_argument("unknown head '" + name + "': expected harm, harm_message, fr, jb or merged");
}

} // namespace edge_eds
