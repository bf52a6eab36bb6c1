// Which graph nodes are block outputs.
#pragma once

#include <cstdint>

namespace edge_eds {

// il of a name that is exactly "l_out-<il>" as printf("%d") writes it; -1 for every other name.
// "l_out-3 (view)", "xl_out-3", "l_out-3x", "l_out-03" and "CPU#l_out-3#0" are other names.
int32_t layer_of_name(const char * name);

} // namespace edge_eds
