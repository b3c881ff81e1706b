/* What `scan.py` computes, and turning what is stored transposed, for one REAL. Included once for each type by kernels.c. */

#ifndef SCAN_OF_ANY_TYPE
#define SCAN_OF_ANY_TYPE
typedef struct {
    double magnitude, max_abs, difference_square, reference_square;
    int64_t position, finite;
} scanned;
#endif

/* Vectors of SIDE elements: as many rows of them are a tile. */
typedef REAL OF_TYPE(row) __attribute__((vector_size(SIDE * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

/* Write the transpose of one tile; `from` and `to` are the lengths of rows there and here. */
INLINE void OF_TYPE(turn_tile)(const REAL *restrict tile, int64_t from, REAL *restrict turned, int64_t to)
{
    OF_TYPE(row) rows[SIDE], mixed[SIDE];
    for (int i = 0; i < SIDE; i++) rows[i] = *(const OF_TYPE(row) *)(tile + i * from);
    for (int rounds = 1; rounds < SIDE; rounds *= 2) { /* each brings elements that are half of the rows apart side by side */
        for (int i = 0; i < SIDE / 2; i++) {
            mixed[2 * i] = LOWER_HALVES(rows[i], rows[i + SIDE / 2]);
            mixed[2 * i + 1] = UPPER_HALVES(rows[i], rows[i + SIDE / 2]);
        }
        for (int i = 0; i < SIDE; i++) rows[i] = mixed[i];
    }
    for (int i = 0; i < SIDE; i++) *(OF_TYPE(row) *)(turned + i * to) = rows[i];
}

/* Write rows `first` to `last` of a matrix that is stored transposed, element [row, column] at column * rows + row, in C
 * order: along what is stored, so that what is read lies side by side. */
INLINE void OF_TYPE(turn_rows)(const REAL *restrict from, REAL *restrict to, int64_t rows, int64_t columns, int64_t first,
                               int64_t last)
{
    const int64_t high = last - first - (last - first) % SIDE, wide = columns - columns % SIDE;
    for (int64_t column = 0; column < wide; column += SIDE) {
        for (int64_t row = 0; row < high; row += SIDE)
            OF_TYPE(turn_tile)(from + column * rows + first + row, rows, to + row * columns + column, columns);
        for (int64_t row = high; row < last - first; row++)
            for (int i = 0; i < SIDE; i++) to[row * columns + column + i] = from[(column + i) * rows + first + row];
    }
    for (int64_t column = wide; column < columns; column++)
        for (int64_t row = 0; row < last - first; row++) to[row * columns + column] = from[column * rows + first + row];
}

/* Write the transpose of `from`, an array of rows * columns in C order. */
KERNEL void OF_TYPE(turn)(const REAL *restrict from, REAL *restrict to, int64_t rows, int64_t columns)
{
    enum { WINDOW = 128 };
    for (int64_t first = 0; first < columns; first += WINDOW)
        OF_TYPE(turn_rows)(from, to + first * rows, columns, rows, first, columns - first < WINDOW ? columns : first + WINDOW);
}

/* Take in one block that starts at element `start`. */
INLINE void OF_TYPE(scan_block)(const REAL *restrict a, const REAL *restrict b, int64_t start, int64_t count, int squares,
                                BITS *farthest, scanned *found)
{
    double apart[LANES] = {0}, own[LANES] = {0};
    BITS largest = 0, magnitude = 0;
    for (int64_t tile = 0; tile < count; tile += TILE) {
        const int width = (int)(count - tile < TILE ? count - tile : TILE);
        for (int i = 0; i < width; i++) {
            const BITS far = BITS_OF(ABS(b[tile + i] - a[tile + i])), high = BITS_OF(a[tile + i]) & HIGHEST;
            const BITS finite = high < INFINITE ? high : 0;
            largest = far > largest ? far : largest;
            magnitude = finite > magnitude ? finite : magnitude;
        }
        if (squares) OF_TYPE(add_squares)(a + tile, b + tile, width, apart, own);
    }
    if (squares) {
        found->difference_square += in_order(apart);
        found->reference_square += in_order(own);
    }
    if ((double)REAL_OF(magnitude) > found->magnitude) found->magnitude = (double)REAL_OF(magnitude);
    if (largest >= INFINITE) found->finite = 0;
    if (found->finite && largest > *farthest) {
        *farthest = largest;
        for (int64_t i = 0; i < count; i++)
            if (BITS_OF(ABS(b[i] - a[i])) == largest) {
                found->position = start + i;
                break;
            }
    }
}

/* Find what `scanned` holds of a reference in C order and a candidate in C order too, or, where `rows` is not 0, stored
 * transposed: then so many rows are turned at a time, into `room`, that they stay in the cache. `room` has space for
 * `window` rows; any block lies within window - 1 of them. */
KERNEL void OF_TYPE(scan)(const REAL *ours, const REAL *theirs, int64_t size, int64_t block, int squares, int64_t rows,
                          REAL *room, int64_t window, scanned *found)
{
    const int64_t columns = rows ? size / rows : 0;
    int64_t first = 0, last = 0;
    BITS farthest = -1;
    for (int64_t start = 0; start < size; start += block) {
        const int64_t count = size - start < block ? size - start : block;
        const REAL *candidate = theirs + start;
        if (rows) {
            if (start + count > last * columns) {
                first = start / columns;
                last = rows - first < window ? rows : first + window;
                OF_TYPE(turn_rows)(theirs, room, rows, columns, first, last);
            }
            candidate = room + (start - first * columns);
        }
        OF_TYPE(scan_block)(ours + start, candidate, start, count, squares, &farthest, found);
    }
    found->max_abs = (double)REAL_OF(farthest < 0 ? 0 : farthest);
}
