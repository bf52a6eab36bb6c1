// Only exact names count as block outputs.
#include "check.h"
#include "layer_name.h"

using edge_eds::layer_of_name;

int main() {
    CHECK(layer_of_name("l_out-0") == 0);
    CHECK(layer_of_name("l_out-7") == 7);
    CHECK(layer_of_name("l_out-127") == 127);
    CHECK(layer_of_name("l_out-999999999") == 999999999);

    const char * const others[] = {"",
                                   "l_out",
                                   "l_out-",
                                   "l_out--1",
                                   "l_out-+1",
                                   "l_out-03",
                                   "l_out-00",
                                   "l_out-3 (view)",
                                   "l_out-3 (copy)",
                                   "xl_out-3",
                                   "l_out-3x",
                                   "l_out-3 ",
                                   " l_out-3",
                                   "L_out-3",
                                   "l_out_3",
                                   "CPU#l_out-3#0",
                                   "l_out-3#0",
                                   "l_out-1e1",
                                   "l_out-9999999999",
                                   "l_out_vec-3",
                                   "norm-3"};
    for (const char * name : others) {
        CHECK(layer_of_name(name) == -1);
    }
    return n_failures;
}
