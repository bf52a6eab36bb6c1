#include "layer_name.h"

#include <cstring>

namespace edge_eds {

int32_t layer_of_name(const char * name) {
    static const char prefix[] = "l_out-";
    const size_t n_prefix      = sizeof(prefix) - 1;
    if (std::strncmp(name, prefix, n_prefix) != 0) {
        return -1;
    }
    const char * digits = name + n_prefix;
    int32_t il          = 0;
    int n_digits        = 0;
    for (const char * p = digits; *p != '\0'; ++p) {
        if (*p < '0' || *p > '9' || ++n_digits > 9) {
            return -1;
        }
        il = il * 10 + (*p - '0');
    }
    if (n_digits == 0 || (digits[0] == '0' && n_digits > 1)) {
        return -1;
    }
    return il;
}

} // namespace edge_eds
