// Counts every allocation of the process, so that tests can show that the callback makes none.
#pragma once

#include <cstddef>

size_t n_allocations();
