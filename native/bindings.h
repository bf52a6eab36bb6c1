// What the files of the binding share: array types, and one function for each class that Python sees.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "src/program.h"

#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

namespace nb = nanobind;
using namespace nb::literals;
using namespace edge_eds;

using float_rows   = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>; // (n, n_embd)
using float_vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using int_vector   = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using out_rows     = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using new_floats   = nb::ndarray<nb::numpy, float, nb::ndim<1>>;
using new_ints     = nb::ndarray<nb::numpy, int32_t, nb::ndim<1>>;
using new_rows     = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

inline std::vector<float> to_vector(const float_vector & v) {
    return std::vector<float>(v.data(), v.data() + v.size());
}

inline std::vector<int32_t> to_vector(const int_vector & v) {
    return std::vector<int32_t>(v.data(), v.data() + v.size());
}

template <typename T> nb::capsule owner_of(T * data) {
    return nb::capsule(data, [](void * p) noexcept { delete[] static_cast<T *>(p); });
}

inline new_floats make_floats(size_t n) {
    float * data = new float[n];
    return new_floats(data, {n}, owner_of(data));
}

inline new_ints make_ints(size_t n) {
    int32_t * data = new int32_t[n];
    return new_ints(data, {n}, owner_of(data));
}

inline new_rows make_rows(size_t n, size_t n_embd) {
    float * data = new float[n * n_embd];
    return new_rows(data, {n, n_embd}, owner_of(data));
}

// The core's program, and the Python objects that it points to.
struct py_program {
    program core;
    std::vector<nb::object> kept; // callables and arrays that core points to
};

void bind_layer_energy(nb::module_ & m);
void bind_program(nb::module_ & m);
void bind_hook(nb::module_ & m);
