/* What `update_rules._adam` predicts and `update_residual` holds against it, for one REAL. Included once for each type by
 * kernels.c. An element's arithmetic is float64, in the order in which the numpy path has it. */

#ifndef ADAM_OF_ANY_TYPE
#define ADAM_OF_ANY_TYPE
#define ADAM_TILE 128

typedef struct {
    double gradient_scale, coupled, shrink, beta1, beta2, eps, root_correction2, correction2, rate;
    double half_ulps, update_epsilons, state_epsilons, state_floor, factor;
} adam_rule;

typedef struct {
    double squares, update_squares, along, parameter_squares, slope, noise;
    double max_abs, worst, predicted, actual, allowed;
    int64_t at, outside;
} tally;

/* One tile's numbers, as `Prediction` has them. */
typedef struct {
    double before[ADAM_TILE], after[ADAM_TILE], expected[ADAM_TILE], scale[ADAM_TILE], correction[ADAM_TILE];
    double moment1[ADAM_TILE], scale1[ADAM_TILE], moment2[ADAM_TILE], scale2[ADAM_TILE];
    double ulps[ADAM_TILE];
} adam_tile;

INLINE double known(double x) { return fabs(x) < INFINITY ? x : 0.0; }

/* Take in one tile's residuals; return 0 where one is not finite or nothing is allowed: then nothing here counts. */
INLINE int add_residuals(tally *all, const double *restrict predicted, const double *restrict actual,
                         const double *restrict allowed, const double *restrict update, double *restrict left,
                         double *restrict squares, double *restrict update_squares, int64_t start, int width)
{
    double quotient[ADAM_TILE];
    int64_t largest = 0, worst = 0;
    int outside = 0, odd = 0;
    for (int i = 0; i < width; i++) {
        const double apart = actual[i] - predicted[i], size = fabs(apart), share = size / allowed[i];
        const int64_t high = bits64(size), far = bits64(share);
        left[i] = apart;
        quotient[i] = share;
        odd |= !(allowed[i] > 0.0);
        largest = high > largest ? high : largest;
        worst = far > worst ? far : worst;
        outside += share > 1.0;
    }
    if (odd || largest >= INFINITE64) return 0;
    for (int base = 0; base < width; base += LANES) {
        const int rest = width - base < LANES ? width - base : LANES;
        for (int lane = 0; lane < rest; lane++) {
            squares[lane] += left[base + lane] * left[base + lane];
            update_squares[lane] += update[base + lane] * update[base + lane];
        }
    }
    all->outside += outside;
    if (real64(largest) > all->max_abs) all->max_abs = real64(largest);
    if (real64(worst) > all->worst) {
        int i = 0;
        while (bits64(quotient[i]) != worst) i++;
        all->worst = quotient[i];
        all->at = start + i;
        all->predicted = predicted[i];
        all->actual = actual[i];
        all->allowed = allowed[i];
    }
    return 1;
}
#endif

typedef struct {
    const REAL *before, *gradient, *moment1, *moment2, *after, *later1, *later2;
} OF_TYPE(adam_arrays);

/* Predict the elements `where[0]`, ... (or `start`, `start` + 1, ... where it is NULL). */
INLINE void OF_TYPE(adam_predict)(const adam_rule *rule, const OF_TYPE(adam_arrays) *arrays, const int64_t *where,
                                  int64_t start, int width, adam_tile *tile)
{
    REAL before[ADAM_TILE], gradient[ADAM_TILE], after[ADAM_TILE], moment1[ADAM_TILE], moment2[ADAM_TILE];
    const REAL *p = arrays->before + start, *g = arrays->gradient + start, *e = arrays->after + start;
    const REAL *m = arrays->moment1 ? arrays->moment1 + start : moment1, *v = arrays->moment1 ? arrays->moment2 + start : moment2;
    const adam_rule r = *rule;
    if (!arrays->moment1)
        for (int i = 0; i < width; i++) moment1[i] = moment2[i] = 0;
    if (where) {
        for (int i = 0; i < width; i++) {
            before[i] = arrays->before[where[i]];
            gradient[i] = arrays->gradient[where[i]];
            after[i] = arrays->after[where[i]];
        }
        if (arrays->moment1)
            for (int i = 0; i < width; i++) {
                moment1[i] = arrays->moment1[where[i]];
                moment2[i] = arrays->moment2[where[i]];
            }
        p = before, g = gradient, e = after, m = moment1, v = moment2;
    }
    for (int i = 0; i < width; i++) {
        const double raw = (double)g[i] * r.gradient_scale, start_at = (double)p[i], end_at = (double)e[i];
        const double pull = r.coupled * start_at;
        const double slope = r.coupled != 0.0 ? raw + pull : raw;
        const double size = r.coupled != 0.0 ? fabs(raw) + fabs(pull) : fabs(raw);
        const double old1 = r.beta1 * (double)m[i], old2 = r.beta2 * (double)v[i];
        const double moment1_now = old1 + (1.0 - r.beta1) * slope, scale1 = fabs(old1) + (1.0 - r.beta1) * size;
        const double moment2_now = old2 + (1.0 - r.beta2) * (slope * slope);
        const double scale2 = fabs(old2) + (1.0 - r.beta2) * (fabs(slope) * size);
        const double below = sqrt(moment2_now) / r.root_correction2 + r.eps;
        const double scale = r.rate * scale1 / below, ratio = moment2_now != 0.0 ? scale2 / fabs(moment2_now) : 1.0;
        const double update = r.rate * moment1_now / below, share = sqrt(moment2_now / r.correction2) / below;
        const REAL largest = (REAL)(fabs(start_at) > fabs(end_at) ? fabs(start_at) : fabs(end_at));
        const REAL next = REAL_OF(BITS_OF(largest) + 1), spacing = next - largest;
        tile->before[i] = start_at;
        tile->after[i] = end_at;
        tile->expected[i] = start_at * (1.0 - r.shrink) - update;
        tile->scale[i] = scale * (ratio <= 1.0 ? 1.0 : ratio) + fabs(r.shrink * start_at);
        tile->correction[i] = -known(update * share);
        tile->moment1[i] = moment1_now;
        tile->scale1[i] = scale1;
        tile->moment2[i] = moment2_now;
        tile->scale2[i] = scale2;
        tile->ulps[i] = (double)spacing;
    }
}

/* Sum what the common factor of the update is found from, at the elements of the given ranks among those that moved
 * (all of them, where none did): sums[0] of weight * update^2, sums[1] of weight * update * residual. */
KERNEL void OF_TYPE(adam_factor)(const adam_rule *rule, const OF_TYPE(adam_arrays) *arrays, const int64_t *where, int64_t count,
                                 const int64_t *ranks, int64_t wanted, int every, double *sums)
{
    double first[LANES] = {0}, second[LANES] = {0};
    int64_t chosen[ADAM_TILE], candidates[TILE], rank = 0, taken = 0;
    int width = 0;
    adam_tile tile;
    for (int64_t start = 0; start < count && taken < wanted; start += TILE) {
        const int here = (int)(count - start < TILE ? count - start : TILE);
        int moved = 0;
        for (int i = 0; i < here; i++) { /* without a branch: which elements moved cannot be guessed */
            const int64_t place = where ? where[start + i] : start + i;
            candidates[moved] = place;
            moved += every | (arrays->before[place] != arrays->after[place]);
        }
        for (; taken < wanted && ranks[taken] < rank + moved; taken++) {
            chosen[width++] = candidates[ranks[taken] - rank];
            if (width < ADAM_TILE && taken + 1 < wanted) continue;
            OF_TYPE(adam_predict)(rule, arrays, chosen, 0, width, &tile);
            for (int j = 0; j < width; j++) {
                const double update = tile.correction[j], left = tile.after[j] - tile.expected[j];
                const double below = tile.ulps[j] + rule->update_epsilons * fabs(update), weight = 1.0 / (below * below);
                const int usable = fabs(tile.expected[j]) < INFINITY && fabs(tile.after[j]) < INFINITY && update != 0.0;
                first[j % LANES] += usable ? weight * (update * update) : 0.0;
                second[j % LANES] += usable ? weight * update * left : 0.0;
            }
            width = 0;
        }
        rank += moved;
    }
    sums[0] = in_order(first);
    sums[1] = in_order(second);
}

/* Return how many elements moved. */
KERNEL int64_t OF_TYPE(adam_moved)(const OF_TYPE(adam_arrays) *arrays, const int64_t *where, int64_t count)
{
    const REAL *before = arrays->before, *after = arrays->after;
    int64_t moved = 0;
    if (where)
        for (int64_t i = 0; i < count; i++) moved += before[where[i]] != after[where[i]];
    else
        for (int64_t i = 0; i < count; i++) moved += before[i] != after[i];
    return moved;
}

/* Hold parameter, first and second moment against the rule: all[0], all[1], all[2]. Return 0 where something is not
 * finite or nothing is allowed: the numpy path is for that. */
KERNEL int OF_TYPE(adam_judge)(const adam_rule *rule, const OF_TYPE(adam_arrays) *arrays, const int64_t *where, int64_t count,
                               int64_t chunk, tally *all)
{
    const adam_rule r = *rule;
    adam_tile tile;
    for (int64_t first = 0; first < count; first += chunk) {
        const int64_t last = count - first < chunk ? count : first + chunk;
        double lanes[10][LANES] = {{0}};
        for (int64_t start = first; start < last; start += ADAM_TILE) {
            const int width = (int)(last - start < ADAM_TILE ? last - start : ADAM_TILE);
            double later1[ADAM_TILE], later2[ADAM_TILE], predicted[ADAM_TILE], allowed[ADAM_TILE], update[ADAM_TILE];
            double slope[ADAM_TILE], ulps[ADAM_TILE], left[ADAM_TILE], allowed1[ADAM_TILE], allowed2[ADAM_TILE];
            if (where)
                for (int i = 0; i < width; i++) {
                    later1[i] = (double)arrays->later1[where[start + i]];
                    later2[i] = (double)arrays->later2[where[start + i]];
                }
            else
                for (int i = 0; i < width; i++) {
                    later1[i] = (double)arrays->later1[start + i];
                    later2[i] = (double)arrays->later2[start + i];
                }
            OF_TYPE(adam_predict)(rule, arrays, where ? where + start : NULL, where ? 0 : start, width, &tile);
            for (int i = 0; i < width; i++) {
                update[i] = tile.expected[i] - tile.before[i];
                ulps[i] = r.half_ulps * tile.ulps[i];
                slope[i] = r.update_epsilons * tile.scale[i];
                predicted[i] = tile.expected[i] + r.factor * tile.correction[i];
                allowed[i] = ulps[i] + slope[i];
                allowed1[i] = r.state_epsilons * tile.scale1[i] + r.state_floor;
                allowed2[i] = r.state_epsilons * tile.scale2[i] + r.state_floor;
            }
            if (!add_residuals(&all[0], predicted, tile.after, allowed, update, left, lanes[0], lanes[1], start, width)) return 0;
            for (int base = 0; base < width; base += LANES) {
                const int rest = width - base < LANES ? width - base : LANES;
                for (int lane = 0; lane < rest; lane++) {
                    const double before = tile.before[base + lane], random = 0.5 * ulps[base + lane];
                    lanes[2][lane] += left[base + lane] * before;
                    lanes[3][lane] += before * before;
                    lanes[4][lane] += slope[base + lane] * fabs(before);
                    lanes[5][lane] += random * random * (before * before);
                }
            }
            if (!add_residuals(&all[1], tile.moment1, later1, allowed1, tile.moment1, left, lanes[6], lanes[7], start, width))
                return 0;
            if (!add_residuals(&all[2], tile.moment2, later2, allowed2, tile.moment2, left, lanes[8], lanes[9], start, width))
                return 0;
        }
        all[0].squares += in_order(lanes[0]);
        all[0].update_squares += in_order(lanes[1]);
        all[0].along += in_order(lanes[2]);
        all[0].parameter_squares += in_order(lanes[3]);
        all[0].slope += in_order(lanes[4]);
        all[0].noise += in_order(lanes[5]);
        all[1].squares += in_order(lanes[6]);
        all[1].update_squares += in_order(lanes[7]);
        all[2].squares += in_order(lanes[8]);
        all[2].update_squares += in_order(lanes[9]);
    }
    return 1;
}
