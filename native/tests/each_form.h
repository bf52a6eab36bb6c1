// Runs tests once with every form of the kernels that this machine has, and says which those were.
#pragma once

#include "check.h"
#include "kernels.h"

inline int with_each_form(void (*tests)()) {
    for (const std::string & form : edge_eds::available_kernels()) {
        edge_eds::use_kernels(form);
        const int before = n_failures;
        tests();
        std::printf("%s: %d failed\n", form.c_str(), n_failures - before);
    }
    return n_failures;
}
