/* What all kernels use: powers and logarithms to base 2 that compilers vectorise, matrix products, threads, and
 * memory to work in. Numbers are float32; matrices are stored row by row, and ld is the distance between two
 * rows. */
#ifndef ATTNGRAPH_RUNTIME_H
#define ATTNGRAPH_RUNTIME_H

#include <math.h>
#include <float.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f
#define HIDDEN -1e30f /* the score of a hidden edge: its weight is exactly 0 */
#define HIDES_BELOW -9e3f /* a mask that is added hides an edge at or below this */
#define LEAST 1.0842021724855044e-19f /* weights and degrees at or below this count as 0 */
#define SHARE (8 * FLT_EPSILON) /* a squared distance is at least this share of the squared lengths, and LEAST more */

/* Before a loop that compilers may turn into vector instructions, with sums or a maximum in it. */
#define SIMD _Pragma("omp simd")
#define SUM(...) _Pragma(TEXT(omp simd reduction(+ : __VA_ARGS__)))
#define MAX(...) _Pragma(TEXT(omp simd reduction(max : __VA_ARGS__)))
#define TEXT(...) #__VA_ARGS__

/* x, or 0 where it does not count. Compilers turn this into vector instructions, which of conditions they do not
 * always: they make branches of them, and a loop with branches stays a loop over single numbers. */
static inline float where(int counts, float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= -(uint32_t)(counts != 0);
    memcpy(&x, &bits, sizeof bits);
    return x;
}

/* 2^x for x below 127.5; 0 below -126, NaN for NaN; relative error 1e-7. The polynomial is a minimax fit of (2^f - 1)/f
 * on [-1/2, 1/2]. Rounding is a conversion to whole numbers, which no compiler option may reorder. */
static inline float exp2_of(float x) {
    int32_t whole = (int32_t)(x + copysignf(0.5f, x));
    whole = whole > 127 ? 127 : whole; /* of what is too large, the result is large or infinite */
    float f = x - (float)whole;
    float y = 1.547475404e-04f;
    y = y * f + 1.339965616e-03f;
    y = y * f + 9.618009441e-03f;
    y = y * f + 5.550329760e-02f;
    y = y * f + 2.402265072e-01f;
    y = y * f + 6.931471825e-01f;
    y = y * f + 1.f;
    int32_t bits = (int32_t)((uint32_t)(whole + 127) << 23);
    float power;
    memcpy(&power, &bits, sizeof power);
    return where(!(x < -126.f), power * y);
}

/* log2 of a positive normal number; absolute error 1e-7 beside that of the exponent. x = 2^e (1 + m) with 1 + m in
 * [√½, √2]; the polynomial is a minimax fit of (log2(1 + m)/m - log2 e)/m there. */
static inline float log2_of(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    int32_t exponent = (bits - 0x3f3504f3) >> 23;
    int32_t rest = bits - (int32_t)((uint32_t)exponent << 23);
    float m;
    memcpy(&m, &rest, sizeof m);
    m -= 1.f;
    float y = -1.129976809e-01f;
    y = y * m + 1.875014305e-01f;
    y = y * m - 1.904456615e-01f;
    y = y * m + 2.043510377e-01f;
    y = y * m - 2.396660745e-01f;
    y = y * m + 2.885819972e-01f;
    y = y * m - 3.606948256e-01f;
    y = y * m + 4.808979928e-01f;
    y = y * m - 7.213473916e-01f;
    return y * m * m + m * LOG2_E + (float)exponent;
}

/* C[n, m] = alpha A[n, k] B[m, k]ᵀ + beta C */
void product_nt(int n, int m, int k, float alpha, const float *a, long lda, const float *b, long ldb, float beta,
                float *c, long ldc);
/* The same, computed in one way whatever the sizes: where strips of B are multiplied one by one, equal rows of it give
 * equal numbers. */
void equal_product_nt(int n, int m, int k, float alpha, const float *a, long lda, const float *b, long ldb, float beta,
                      float *c, long ldc);
/* C[n, d] = alpha A[n, m] B[m, d] + beta C */
void product_nn(int n, int d, int m, float alpha, const float *a, long lda, const float *b, long ldb, float beta,
                float *c, long ldc);
/* C[m, d] = alpha A[n, m]ᵀ B[n, d] + beta C */
void product_tn(int m, int d, int n, float alpha, const float *a, long lda, const float *b, long ldb, float beta,
                float *c, long ldc);

/* |x|2 = x G xT of rows x, for d a multiple of 16, from the upper triangle of G + GT: half of the product x G. `room`
 * has d d numbers. */
void square_norms(int n, int d, const float *x, long ldx, const float *g, float *room, float *norms);

/* Do job for every item below count, items handed out one by one to `threads` threads of torch's pool (one thread
 * where that pool is not OpenMP's). */
typedef void (*Work)(void *job, int item);
void for_each(Work work, void *job, int count, int threads);

/* Memory of the calling thread for `floats` numbers, aligned to 64 bytes; NULL if there is none. It is the same
 * memory for each item, and grows. After for_each a thread keeps up to 128 MB of it for the next call. */
float *scratch(size_t floats);

#endif
