/* The loops of `coordinator/comparison` over elements, compiled: plain C functions, called through ctypes by compiled.py.
 *
 * Each gives, bit for bit, what the numpy path of the same name gives. So a sum goes into 64 lanes, element i into lane
 * i % 64 of its block, and the lanes are added in order: the same numbers whatever the width of the processor's vectors.
 * No multiplication is contracted with an addition (-ffp-contract=off), nothing is reordered.
 *
 * Arrays are aligned, C-ordered, and not written to. Nothing is allocated, nothing is kept: any thread may call.
 */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* compiled.py's VERSION: raised with every change of a function's arguments or of a layout. */
const int32_t kernels_version = 2;

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

/* Of two vectors a and b: a0, b0, a1, b1, ... of their lower or upper halves. */
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ORDER){__VA_ARGS__})
#endif
typedef int32_t eight __attribute__((vector_size(32)));
typedef int64_t four __attribute__((vector_size(32)));

#define REAL float
#define ORDER eight
#define SIDE 8
#define LOWER_HALVES(a, b) SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define UPPER_HALVES(a, b) SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
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
#include "scan.h"
#include "adam.h"
#undef REAL
#undef ORDER
#undef SIDE
#undef LOWER_HALVES
#undef UPPER_HALVES
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
#define ORDER four
#define SIDE 4
#define LOWER_HALVES(a, b) SHUFFLE(a, b, 0, 4, 1, 5)
#define UPPER_HALVES(a, b) SHUFFLE(a, b, 2, 6, 3, 7)
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
#include "scan.h"
#include "adam.h"

/* The module: whoever imports all modules of a package imports this one. numpy's own way to an address takes ten times as
 * long as this. */
#if __has_include(<Python.h>)
#define PY_SSIZE_T_CLEAN
#include <Python.h>

static PyObject *address(PyObject *self, PyObject *array)
{
    Py_buffer buffer;
    (void)self;
    if (PyObject_GetBuffer(array, &buffer, PyBUF_STRIDES)) return NULL;
    PyObject *place = PyLong_FromVoidPtr(buffer.buf);
    PyBuffer_Release(&buffer);
    return place;
}

static PyMethodDef methods[] = {{"address", address, METH_O, "Return where an array's first element lies."}, {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernels", "See compiled.py.", 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModuleDef_Init(&module); }
#endif
