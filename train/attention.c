/* Attention of one decode step for a whole layer: rotate the queries and the new key, write the caches, attend over the
 * prompt that a group shares and over the row's own tokens, mix. `train.attention` builds and calls it, and does the same in
 * torch where there is no compiler.
 *
 * R rows, P prompts, H query heads, K key heads, D dimensions a head (a multiple of B), B positions a block, one vector:
 *   projected (R, (H + 2K) D)    queries, keys and values side by side, not yet rotated
 *   cosine, sine (positions, D)  of the rotation
 *   keys (., K, blocks, D, B), values (., K, positions, D); the prompts' and the rows' own, row r's at slots[r]
 *   out (R, H D)
 * All float32 and contiguous.
 */
#include <stdint.h>
#include <string.h>

/* The widest vector that the machine has: of a wider one gcc makes a detour over the stack, at a third of the speed. */
#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX2__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
const int64_t lanes = LANES;

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4)));

static inline floats choose(ints where, floats yes, floats no) { return (floats)(((ints)yes & where) | ((ints)no & ~where)); }

/* exp x for x <= 0, as 2^k exp r with 0 >= r > -1: to 1e-6. Below -40, where it vanishes beside 1, exp(-40): denormal
 * numbers would be slow. */
static inline void exponential(floats *values) {
    const floats none = {0};
    floats x = choose(*values < -40.0f, none - 40.0f, *values);
    ints k = __builtin_convertvector(x * 1.4426950408889634f, ints);
    floats r = x - __builtin_convertvector(k, floats) * 0.6931471805599453f;
    floats sum = none + 1.0f / 5040;
    sum = sum * r + 1.0f / 720;
    sum = sum * r + 1.0f / 120;
    sum = sum * r + 1.0f / 24;
    sum = sum * r + 1.0f / 6;
    sum = sum * r + 1.0f / 2;
    sum = sum * r + 1.0f;
    sum = sum * r + 1.0f;
    *values = sum * (floats)((k + 127) << 23);
}

static inline void rotate(const float *in, const float *cosine, const float *sine, int dim, float scale, int stride, float *out) {
    int half = dim / 2;
    for (int d = 0; d < half; d++) {
        float first = in[d], second = in[half + d];
        out[d * stride] = (first * cosine[d] - second * sine[d]) * scale;
        out[(half + d) * stride] = (second * cosine[half + d] + first * sine[half + d]) * scale;
    }
}

/* Scores of `count` positions, whole blocks; returns the number of blocks. */
static inline int score(const float *query, const float *keys, int dim, int count, floats *scores) {
    int blocks = (count + LANES - 1) / LANES;
    for (int block = 0; block < blocks; block++) {
        const floats *lines = (const floats *)(keys + block * dim * LANES);
        floats even = {0}, odd = {0};
        for (int d = 0; d < dim; d += 2) {
            even += query[d] * lines[d];
            odd += query[d + 1] * lines[d + 1];
        }
        scores[block] = even + odd;
    }
    for (int t = count; t < blocks * LANES; t++) ((float *)scores)[t] = -1e30f;
    return blocks;
}

static inline float softmax(floats *scores, int blocks) {
    floats highest = scores[0], sums = {0};
    for (int block = 1; block < blocks; block++) highest = choose(scores[block] > highest, scores[block], highest);
    float most = highest[0], total = 0;
    for (int lane = 1; lane < LANES; lane++) most = highest[lane] > most ? highest[lane] : most;
    for (int block = 0; block < blocks; block++) {
        scores[block] -= most;
        exponential(scores + block);
        sums += scores[block];
    }
    for (int lane = 0; lane < LANES; lane++) total += sums[lane];
    return total;
}

static inline void mix(const float *weights, const float *values, int dim, int count, floats *mixed) {
    for (int part = 0; part < dim / LANES; part++) {
        const float *v = values + part * LANES;
        floats a = mixed[part], b = {0}, c = {0}, d = {0};
        int t = 0;
        for (; t + 4 <= count; t += 4, v += 4 * dim) {
            a += weights[t] * *(const floats *)v;
            b += weights[t + 1] * *(const floats *)(v + dim);
            c += weights[t + 2] * *(const floats *)(v + 2 * dim);
            d += weights[t + 3] * *(const floats *)(v + 3 * dim);
        }
        for (; t < count; t++, v += dim) a += weights[t] * *(const floats *)v;
        mixed[part] = (a + b) + (c + d);
    }
}

/* `room`: positions that a prompt's and a row's cache hold; `scratch`: dim + prompt_room + own_room floats. */
void attend(const float *projected, const float *cosine, const float *sine, const float *prompt_keys,
            const float *prompt_values, const int64_t *prompt_lengths, float *own_keys, float *own_values,
            const int64_t *slots, const int64_t *prompt_of_row, float *out, float *scratch, int64_t rows, int64_t time,
            int64_t heads, int64_t key_heads, int64_t dim, int64_t prompt_room, int64_t own_room, float scale) {
    int64_t per_key = heads / key_heads;
    float *query = scratch;
    floats *scores = (floats *)(scratch + dim);
    for (int64_t row = 0; row < rows; row++) {
        int64_t prompt = prompt_of_row[row], shared = prompt_lengths[prompt], written = time + 1;
        const float *input = projected + row * (heads + 2 * key_heads) * dim;
        const float *c = cosine + (shared + time) * dim, *s = sine + (shared + time) * dim;
        for (int64_t k = 0; k < key_heads; k++) {
            int64_t of_prompt = (prompt * key_heads + k) * dim * prompt_room;
            int64_t of_row = (slots[row] * key_heads + k) * dim * own_room;
            float *keys = own_keys + of_row, *values = own_values + of_row;
            rotate(input + (heads + k) * dim, c, s, dim, 1, LANES, keys + time / LANES * LANES * dim + time % LANES);
            memcpy(values + time * dim, input + (heads + key_heads + k) * dim, dim * sizeof(float));
            for (int64_t head = k * per_key; head < (k + 1) * per_key; head++) {
                floats *mixed = (floats *)(out + (row * heads + head) * dim);
                rotate(input + head * dim, c, s, dim, scale, 1, query);
                int own = score(query, prompt_keys + of_prompt, dim, shared, scores);
                int blocks = own + score(query, keys, dim, written, scores + own);
                float total = softmax(scores, blocks);
                for (int part = 0; part < dim / LANES; part++) mixed[part] = (floats){0};
                mix((float *)scores, prompt_values + of_prompt, dim, shared, mixed);
                mix((float *)(scores + own), values, dim, written, mixed);
                for (int part = 0; part < dim / LANES; part++) mixed[part] /= total;
            }
        }
    }
}
