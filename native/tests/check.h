// The smallest test framework that says where and what: CHECK keeps going, main returns the number of
// failures.
#pragma once

#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <string>

static int n_failures = 0;

#define CHECK(condition)                                                                 \
    do {                                                                                 \
        if (!(condition)) {                                                              \
            std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
            n_failures += 1;                                                             \
        }                                                                                \
    } while (0)

#define CHECK_NEAR(a, b, tolerance)                                                                  \
    do {                                                                                             \
        const double check_a = (a);                                                                  \
        const double check_b = (b);                                                                  \
        if (!(std::fabs(check_a - check_b) <= (tolerance))) {                                        \
            std::fprintf(stderr, "%s:%d: failed: %s = %.9g, %s = %.9g, difference > %g\n", __FILE__, \
                         __LINE__, #a, check_a, #b, check_b, (double) (tolerance));                  \
            n_failures += 1;                                                                         \
        }                                                                                            \
    } while (0)

// The statement throws this type, and the message contains the text.
#define CHECK_THROWS(statement, type, text)                                                              \
    do {                                                                                                 \
        bool thrown = false;                                                                             \
        try {                                                                                            \
            statement;                                                                                   \
        } catch (const type & check_error) {                                                             \
            thrown = true;                                                                               \
            if (std::string(check_error.what()).find(text) == std::string::npos) {                       \
                std::fprintf(stderr, "%s:%d: message is: %s\n", __FILE__, __LINE__, check_error.what()); \
                n_failures += 1;                                                                         \
            }                                                                                            \
        }                                                                                                \
        if (!thrown) {                                                                                   \
            std::fprintf(stderr, "%s:%d: did not throw: %s\n", __FILE__, __LINE__, #statement);          \
            n_failures += 1;                                                                             \
        }                                                                                                \
    } while (0)
