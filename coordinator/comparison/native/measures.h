/* What `measures.py` and `blocks.py` compute, for one REAL. Included once for each type by kernels.c. */

#ifndef MEASURES_OF_ANY_TYPE
#define MEASURES_OF_ANY_TYPE
typedef struct {
    double difference_square, reference_square, candidate_square, product;
    double max_abs, max_rel, smallest_rtol;
    int64_t position, outside;
    uint64_t max_ulp;
} totals;

#define TOGETHER 8
/* At the end of a loop over rows: its passes stay apart. gcc would else take eight rows at once, by shuffling. */
#define ROW_BY_ROW __asm__("")

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

/* Add |b - a|^2, differences rounded to REAL, and |a|^2 to the lanes. */
INLINE void OF_TYPE(add_squares)(const REAL *restrict a, const REAL *restrict b, int count, double *restrict apart,
                                 double *restrict own)
{
    int i = 0;
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
}

/* Add |theirs - ours|^2 and |ours|^2 of each block to sums[0] and sums[1]. */
KERNEL void OF_TYPE(squares)(const REAL *ours, const REAL *theirs, int64_t size, int64_t block, double *sums)
{
    for (int64_t start = 0; start < size; start += block) {
        double apart[LANES] = {0}, own[LANES] = {0};
        OF_TYPE(add_squares)(ours + start, theirs + start, (int)(size - start < block ? size - start : block), apart, own);
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

/* Add a tile's squares and products to the lanes: all rows of a tile for eight lanes, whose four sums stay in registers
 * meanwhile, then for the next eight. */
INLINE void OF_TYPE(add_products)(const REAL *restrict a, const REAL *restrict b, int width, double *restrict difference_square,
                                  double *restrict reference_square, double *restrict candidate_square,
                                  double *restrict product)
{
    const int whole = width - width % LANES;
    for (int group = 0; group < LANES; group += TOGETHER) {
        double sums[4][TOGETHER];
        for (int lane = 0; lane < TOGETHER; lane++) {
            sums[0][lane] = difference_square[group + lane];
            sums[1][lane] = reference_square[group + lane];
            sums[2][lane] = candidate_square[group + lane];
            sums[3][lane] = product[group + lane];
        }
        for (int i = group; i < whole; i += LANES) {
            for (int lane = 0; lane < TOGETHER; lane++) {
                const double x = (double)a[i + lane], y = (double)b[i + lane], d = y - x;
                sums[0][lane] += d * d;
                sums[1][lane] += x * x;
                sums[2][lane] += y * y;
                sums[3][lane] += x * y;
            }
            ROW_BY_ROW;
        }
        for (int lane = 0; lane < TOGETHER; lane++) {
            difference_square[group + lane] = sums[0][lane];
            reference_square[group + lane] = sums[1][lane];
            candidate_square[group + lane] = sums[2][lane];
            product[group + lane] = sums[3][lane];
        }
    }
    for (int lane = 0; whole + lane < width; lane++) {
        const double x = (double)a[whole + lane], y = (double)b[whole + lane], d = y - x;
        difference_square[lane] += d * d;
        reference_square[lane] += x * x;
        candidate_square[lane] += y * y;
        product[lane] += x * y;
    }
}

/* Return a REAL some roundings below `bound`, which is not negative, or 0.
 *
 * With such bounds a look in REAL arithmetic misses nothing: where apart > atol + rtol * own exactly, apart rounded to a REAL
 * is not below just_below(atol) + just_below(rtol) * own as computed. Rounding keeps the order of numbers, and what it
 * adds to a sum or product, where these are no normal numbers too, is less than the margin. */
INLINE REAL OF_TYPE(just_below)(double bound)
{
    const double epsilon = sizeof(REAL) == 4 ? FLT_EPSILON : DBL_EPSILON, least = sizeof(REAL) == 4 ? FLT_MIN : DBL_MIN;
    const double most = sizeof(REAL) == 4 ? FLT_MAX : DBL_MAX, below = bound * (1.0 - 8.0 * epsilon);
    return (REAL)(below < least ? 0.0 : below < most || bound == INFINITY ? below : most);
}

/* Take in the relative measures of a tile, whose numbers are finite. */
INLINE void OF_TYPE(add_relative)(const REAL *restrict a, const REAL *restrict b, int width, double rtol, double atol, totals *now)
{
    /* A quotient is above what was found before only where above > before * below; a product that is no normal number
     * rounds to at most `above` there, too. */
    const double relative = now->max_rel * (1.0 - 1e-15), needed = now->smallest_rtol * (1.0 - 1e-15);
    int64_t beyond = 0, greater = 0;
    for (int i = 0; i < width; i++) {
        const double apart = fabs((double)b[i] - (double)a[i]), own = fabs((double)a[i]), past = apart - atol;
        beyond += past > rtol * own;
        greater |= ((apart >= relative * own) & (apart > 0.0)) | ((past >= needed * own) & (past > 0.0)) ? 1 : 0;
    }
    now->outside += beyond;
    if (!greater) return;
    int64_t greatest = bits64(now->max_rel), most = bits64(now->smallest_rtol);
    for (int i = 0; i < width; i++) {
        const double apart = fabs((double)b[i] - (double)a[i]), own = fabs((double)a[i]), past = apart - atol;
        const int64_t one = bits64(apart > 0.0 ? apart / own : 0.0), other = bits64(past > 0.0 ? past / own : 0.0);
        greatest = one > greatest ? one : greatest;
        most = other > most ? other : most;
    }
    now->max_rel = real64(greatest);
    now->smallest_rtol = real64(most);
}

/* Take in the greatest difference of the tile that starts at `tile`, if it is above that before. */
INLINE void OF_TYPE(add_largest)(const REAL *restrict a, const REAL *restrict b, int width, int64_t tile, totals *now)
{
    double largest = 0.0;
    for (int i = 0; i < width; i++) {
        const double apart = fabs((double)b[i] - (double)a[i]);
        largest = apart > largest ? apart : largest;
    }
    if (!(largest > now->max_abs)) return;
    now->max_abs = largest;
    for (int i = 0; i < width; i++)
        if (fabs((double)b[i] - (double)a[i]) == largest) {
            now->position = tile + i;
            break;
        }
}

/* Return the greatest distance in representable numbers. */
INLINE UNSIGNED OF_TYPE(greatest_ulps)(const REAL *restrict a, const REAL *restrict b, int width)
{
    UNSIGNED ulps = 0;
    for (int i = 0; i < width; i++) {
        BITS x = BITS_OF(a[i]), y = BITS_OF(b[i]);
        x = x < 0 ? LOWEST - x : x;
        y = y < 0 ? LOWEST - y : y;
        const UNSIGNED far = x > y ? (UNSIGNED)x - (UNSIGNED)y : (UNSIGNED)y - (UNSIGNED)x;
        ulps = far > ulps ? far : ulps;
    }
    return ulps;
}

/* Take in whole blocks from `start` on. Return where it ended: the size, or the first block whose differences, or their
 * squares, are not finite.
 *
 * A first look at a tile is taken in REAL arithmetic, twice as many at once as float64 in float32. It misses no tile that
 * changes a greatest value or a count; these are then computed in float64. */
KERNEL int64_t OF_TYPE(measure)(const REAL *ours, const REAL *theirs, int64_t start, int64_t size, int64_t block, double rtol,
                                double atol, totals *all)
{
    const REAL narrow_atol = OF_TYPE(just_below)(atol);
    for (; start < size; start += block) {
        const int64_t stop = size - start < block ? size : start + block;
        double difference_square[LANES] = {0}, reference_square[LANES] = {0};
        double candidate_square[LANES] = {0}, product[LANES] = {0};
        totals now = *all;
        for (int64_t tile = start; tile < stop; tile += TILE) {
            const REAL *restrict a = ours + tile, *restrict b = theirs + tile;
            const int width = (int)(stop - tile < TILE ? stop - tile : TILE);
            const REAL farthest = OF_TYPE(just_below)(now.max_rel);
            const REAL needed = OF_TYPE(just_below)(rtol < now.smallest_rtol ? rtol : now.smallest_rtol);
            BITS largest = 0, relative = 0, crossing = 0, above = 0, below = 0;
            for (int i = 0; i < width; i++) {
                const BITS x = BITS_OF(a[i]), y = BITS_OF(b[i]), gap = (BITS)((UNSIGNED)x - (UNSIGNED)y);
                const REAL apart = ABS(b[i] - a[i]), own = ABS(a[i]), part = needed * own, allowed = narrow_atol + part;
                const BITS high = BITS_OF(apart);
                largest = high > largest ? high : largest;
                relative |= ((apart >= farthest * own) | (apart >= allowed)) & (high > 0) ? 1 : 0;
                crossing |= x ^ y;
                above = gap > above ? gap : above;
                below = gap < below ? gap : below;
            }
            OF_TYPE(add_products)(a, b, width, difference_square, reference_square, candidate_square, product);
            if (REAL_OF(largest) >= (REAL)now.max_abs) OF_TYPE(add_largest)(a, b, width, tile, &now);
            if (relative) OF_TYPE(add_relative)(a, b, width, rtol, atol, &now);
            const UNSIGNED up = (UNSIGNED)above, down = 0 - (UNSIGNED)below;
            const UNSIGNED ulps = crossing < 0 ? OF_TYPE(greatest_ulps)(a, b, width) : up > down ? up : down;
            now.max_ulp = ulps > now.max_ulp ? ulps : now.max_ulp;
        }
        const double apart = in_order(difference_square);
        if (!(apart < INFINITY)) return start;
        now.difference_square += apart;
        now.reference_square += in_order(reference_square);
        now.candidate_square += in_order(candidate_square);
        now.product += in_order(product);
        *all = now;
    }
    return size;
}
