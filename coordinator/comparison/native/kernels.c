/* The loops of `coordinator/comparison` over elements, compiled: plain C functions, called through ctypes by compiled.py.
 *
 * Each gives, bit for bit, what the numpy path of the same name gives. So a sum goes into 64 lanes, element i into lane
 * i % 64 of its block, and the lanes are added in order: the same numbers whatever the width of the processor's vectors.
 * No multiplication is contracted with an addition (-ffp-contract=off), nothing is reordered.
 *
 * Arrays are aligned, C-ordered, and not written to. Nothing is allocated, nothing is kept: any thread may call.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 64
#define TILE 512

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define KERNEL __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define KERNEL
#endif
#define INLINE static inline __attribute__((always_inline))

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define OF_TYPE(name) JOIN(name, SUFFIX)

/* The bits of a magnitude order as the magnitude does; an infinity's are INFINITE_BITS, those of NaN are above. */
INLINE int64_t bits64(double x) { int64_t b; memcpy(&b, &x, sizeof b); return b; }
INLINE int32_t bits32(float x) { int32_t b; memcpy(&b, &x, sizeof b); return b; }
INLINE double real64(int64_t b) { double x; memcpy(&x, &b, sizeof x); return x; }
INLINE float real32(int32_t b) { float x; memcpy(&x, &b, sizeof x); return x; }

INLINE double in_order(const double *lanes)
{
    double sum = lanes[0];
    for (int lane = 1; lane < LANES; lane++) sum += lanes[lane];
    return sum;
}

#define INFINITE64 INT64_C(0x7ff0000000000000)

#define REAL float
#define BITS int32_t
#define UNSIGNED uint32_t
#define SUFFIX _float32
#define BITS_OF bits32
#define REAL_OF real32
#define ABS fabsf
#define LOWEST INT32_MIN
#define HIGHEST INT32_MAX
#define INFINITE INT32_C(0x7f800000)
#include "measures.h"
#include "adam.h"
#undef REAL
#undef BITS
#undef UNSIGNED
#undef SUFFIX
#undef BITS_OF
#undef REAL_OF
#undef ABS
#undef LOWEST
#undef HIGHEST
#undef INFINITE

#define REAL double
#define BITS int64_t
#define UNSIGNED uint64_t
#define SUFFIX _float64
#define BITS_OF bits64
#define REAL_OF real64
#define ABS fabs
#define LOWEST INT64_MIN
#define HIGHEST INT64_MAX
#define INFINITE INFINITE64
#include "measures.h"
#include "adam.h"

/* An empty module, so that whoever imports all modules of a package can import this one. */
#if __has_include(<Python.h>)
#define PY_SSIZE_T_CLEAN
#include <Python.h>

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernels", "See compiled.py.", 0, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModuleDef_Init(&module); }
#endif
