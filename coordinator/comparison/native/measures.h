/* What `measures.py` and `blocks.py` compute, for one REAL. Included once for each type by kernels.c. */

#ifndef MEASURES_OF_ANY_TYPE
#define MEASURES_OF_ANY_TYPE
typedef struct {
    double difference_square, reference_square, candidate_square, product;
    double max_abs, max_rel, smallest_rtol;
    int64_t position, outside;
    uint64_t max_ulp;
} totals;
#endif

/* Say whether both arrays hold the same bytes and nothing that is not finite. */
KERNEL int OF_TYPE(same_and_finite)(const REAL *ours, const REAL *theirs, int64_t size)
{
    for (int64_t start = 0; start < size; start += 4096) {
        const REAL *restrict a = ours + start, *restrict b = theirs + start;
        const int count = (int)(size - start < 4096 ? size - start : 4096);
        BITS differs = 0, peak = 0;
        for (int i = 0; i < count; i++) {
            const BITS x = BITS_OF(a[i]), y = BITS_OF(b[i]), high = x & HIGHEST;
            differs |= x ^ y;
            peak = high > peak ? high : peak;
        }
        if (differs || peak >= INFINITE) return 0;
    }
    return 1;
}

/* Return the greatest finite magnitude. */
KERNEL double OF_TYPE(magnitude)(const REAL *restrict array, int64_t size)
{
    BITS peak = 0;
    for (int64_t i = 0; i < size; i++) {
        const BITS high = BITS_OF(array[i]) & HIGHEST, finite = high < INFINITE ? high : 0;
        peak = finite > peak ? finite : peak;
    }
    return (double)REAL_OF(peak);
}

/* Return the greatest finite magnitude of theirs - ours. */
KERNEL double OF_TYPE(spread)(const REAL *restrict ours, const REAL *restrict theirs, int64_t size)
{
    BITS peak = 0;
    for (int64_t i = 0; i < size; i++) {
        const REAL apart = theirs[i] - ours[i];
        const BITS high = BITS_OF(apart) & HIGHEST, finite = high < INFINITE ? high : 0;
        peak = finite > peak ? finite : peak;
    }
    return (double)REAL_OF(peak);
}

/* Add |theirs - ours|^2 and |ours|^2 of each block to sums[0] and sums[1]. */
KERNEL void OF_TYPE(squares)(const REAL *ours, const REAL *theirs, int64_t size, int64_t block, double *sums)
{
    for (int64_t start = 0; start < size; start += block) {
        const REAL *restrict a = ours + start, *restrict b = theirs + start;
        const int64_t count = size - start < block ? size - start : block;
        double apart[LANES] = {0}, own[LANES] = {0};
        int64_t i = 0;
        for (; i + LANES <= count; i += LANES)
            for (int lane = 0; lane < LANES; lane++) {
                const double d = (double)(REAL)(b[i + lane] - a[i + lane]), x = (double)a[i + lane];
                apart[lane] += d * d;
                own[lane] += x * x;
            }
        for (int lane = 0; i + lane < count; lane++) {
            const double d = (double)(REAL)(b[i + lane] - a[i + lane]), x = (double)a[i + lane];
            apart[lane] += d * d;
            own[lane] += x * x;
        }
        sums[0] += in_order(apart);
        sums[1] += in_order(own);
    }
}

/* Write the indices from `start` on where |theirs - ours| > atol + rtol * |ours|; stop before `room` could overflow.
 * Return how many; *next is where to go on. */
KERNEL int64_t OF_TYPE(outside)(const REAL *restrict ours, const REAL *restrict theirs, int64_t start, int64_t size,
                                REAL rtol, REAL atol, int64_t *restrict found, int64_t room, int64_t *next)
{
    int64_t count = 0;
    for (; start < size; start += TILE) {
        const int width = (int)(size - start < TILE ? size - start : TILE);
        const REAL *restrict a = ours + start, *restrict b = theirs + start;
        int any = 0;
        if (count + width > room) break;
        for (int i = 0; i < width; i++) {
            const REAL apart = ABS(b[i] - a[i]), part = rtol * ABS(a[i]), allowed = atol + part;
            any |= apart > allowed;
        }
        if (!any) continue;
        for (int i = 0; i < width; i++) {
            const REAL apart = ABS(b[i] - a[i]), part = rtol * ABS(a[i]), allowed = atol + part;
            if (apart > allowed) found[count++] = start + i;
        }
    }
    *next = start < size ? start : size;
    return count;
}

/* Find the greatest difference, if every element is finite and within tolerance: return 1, else 0. */
KERNEL int OF_TYPE(screen)(const REAL *ours, const REAL *theirs, int64_t size, int64_t block, double rtol, double atol,
                           double *peak, int64_t *position)
{
    const REAL narrow_rtol = (REAL)rtol, narrow_atol = (REAL)atol;
    BITS farthest = -1;
    for (int64_t start = 0; start < size; start += block) {
        const REAL *restrict a = ours + start, *restrict b = theirs + start;
        const int64_t count = size - start < block ? size - start : block;
        BITS largest = 0, beyond = 0;
        for (int64_t i = 0; i < count; i++) {
            const REAL apart = ABS(b[i] - a[i]), part = narrow_rtol * ABS(a[i]), allowed = narrow_atol + part;
            const BITS high = BITS_OF(apart);
            largest = high > largest ? high : largest;
            beyond |= apart <= allowed ? 0 : 1;
        }
        if (largest >= INFINITE) return 0;
        if (!((double)REAL_OF(largest) <= atol) && beyond) return 0;
        if (largest > farthest) {
            farthest = largest;
            for (int64_t i = 0; i < count; i++)
                if (BITS_OF(ABS(b[i] - a[i])) == largest) {
                    *position = start + i;
                    break;
                }
        }
    }
    *peak = (double)REAL_OF(farthest);
    return 1;
}

INLINE double OF_TYPE(greatest_quotient)(const double *restrict above, const double *restrict below, double less, int count,
                                         double best)
{
    /* A quotient can be above `best` only where above >= best * below; a product that is no normal number rounds to at
     * most `above` there, too. */
    const double least = best * (1.0 - 1e-15);
    int any = 0;
    for (int i = 0; i < count; i++) {
        const double beyond = above[i] - less;
        any |= (beyond >= least * below[i]) & (beyond > 0.0);
    }
    if (any)
        for (int i = 0; i < count; i++) {
            const double quotient = (above[i] - less) / below[i];
            best = quotient > best ? quotient : best;
        }
    return best;
}

/* Take in whole blocks from `start` on. Return where it ended: the size, or the first block that is not finite or whose
 * differences are not. */
KERNEL int64_t OF_TYPE(measure)(const REAL *ours, const REAL *theirs, int64_t start, int64_t size, int64_t block, double rtol,
                                double atol, totals *all)
{
    double apart[TILE], own[TILE];
    for (; start < size; start += block) {
        const int64_t stop = size - start < block ? size : start + block;
        double difference_square[LANES] = {0}, reference_square[LANES] = {0};
        double candidate_square[LANES] = {0}, product[LANES] = {0};
        totals now = *all;
        for (int64_t tile = start; tile < stop; tile += TILE) {
            const REAL *restrict a = ours + tile, *restrict b = theirs + tile;
            const int width = (int)(stop - tile < TILE ? stop - tile : TILE);
            int64_t largest = 0, beyond = 0;
            UNSIGNED ulps = 0;
            int i = 0;
            for (; i + LANES <= width; i += LANES)
                for (int lane = 0; lane < LANES; lane++) {
                    const double x = (double)a[i + lane], y = (double)b[i + lane], d = fabs(y - x);
                    apart[i + lane] = d;
                    own[i + lane] = fabs(x);
                    difference_square[lane] += d * d;
                    reference_square[lane] += x * x;
                    candidate_square[lane] += y * y;
                    product[lane] += x * y;
                }
            for (int lane = 0; i + lane < width; lane++) {
                const double x = (double)a[i + lane], y = (double)b[i + lane], d = fabs(y - x);
                apart[i + lane] = d;
                own[i + lane] = fabs(x);
                difference_square[lane] += d * d;
                reference_square[lane] += x * x;
                candidate_square[lane] += y * y;
                product[lane] += x * y;
            }
            for (i = 0; i < width; i++) {
                const int64_t high = bits64(apart[i]);
                largest = high > largest ? high : largest;
            }
            if (largest >= INFINITE64) return start;
            now.max_rel = OF_TYPE(greatest_quotient)(apart, own, 0.0, width, now.max_rel);
            if (real64(largest) > atol) {
                now.smallest_rtol = OF_TYPE(greatest_quotient)(apart, own, atol, width, now.smallest_rtol);
                for (i = 0; i < width; i++) beyond += apart[i] - atol > rtol * own[i];
                now.outside += beyond;
            }
            if (real64(largest) > now.max_abs) {
                now.max_abs = real64(largest);
                for (i = 0; i < width; i++)
                    if (bits64(apart[i]) == largest) {
                        now.position = tile + i;
                        break;
                    }
            }
            for (i = 0; i < width; i++) {
                BITS x = BITS_OF(a[i]), y = BITS_OF(b[i]);
                x = x < 0 ? LOWEST - x : x;
                y = y < 0 ? LOWEST - y : y;
                const UNSIGNED far = x > y ? (UNSIGNED)x - (UNSIGNED)y : (UNSIGNED)y - (UNSIGNED)x;
                ulps = far > ulps ? far : ulps;
            }
            now.max_ulp = ulps > now.max_ulp ? ulps : now.max_ulp;
        }
        now.difference_square += in_order(difference_square);
        now.reference_square += in_order(reference_square);
        now.candidate_square += in_order(candidate_square);
        now.product += in_order(product);
        *all = now;
    }
    return size;
}
