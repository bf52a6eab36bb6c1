#include "count_new.h"

#include <cstdlib>
#include <new>

static size_t count = 0;

size_t n_allocations() {
    return count;
}

void * operator new(size_t size) {
    count += 1;
    void * p = std::malloc(size > 0 ? size : 1);
    if (!p) {
        throw std::bad_alloc();
    }
    return p;
}

void operator delete(void * p) noexcept {
    std::free(p);
}

void operator delete(void * p, size_t) noexcept {
    std::free(p);
}
