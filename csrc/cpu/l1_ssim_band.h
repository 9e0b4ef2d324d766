// The loss, once, for any number of lanes. Included by one file per instruction set; everything has internal linkage.
//
// A band of rows is walked from left to right, SSIM_STEP columns at a time, and all state between steps is a few dozen
// columns in cache. Every 11-tap blur runs down the rows of a small array, where one register per row slides by; the
// blurs along picture rows are made to run down as well by transposing N x N tiles in registers.
//
// With a = pred + target and b = pred - target, SSIM is
//   (mean(a)^2 - mean(b)^2 + 2 C1) (var(a) - var(b) + 2 C2)
//   -------------------------------------------------------,
//   (mean(a)^2 + mean(b)^2 + 2 C1) (var(a) + var(b) + 2 C2)
// so four blurred moments suffice instead of five, and where the pictures agree b = 0: 1 - SSIM and its gradient are
// zero exactly, not up to the cancellation in var = E[x^2] - E[x]^2.
#pragma once

#include "cpu/l1_ssim.h"

#define AVATAR_INLINE __attribute__((always_inline)) inline

namespace avatar {
namespace {

template <int... I>
struct Indices {};
template <int N, int... I>
struct Count : Count<N - 1, N - 1, I...> {};
template <int... I>
struct Count<0, I...> {
  using type = Indices<I...>;
};

template <typename T, int N>
struct L1Ssim {
  typedef T Lanes __attribute__((vector_size(N * sizeof(T))));
  using Task = SsimBand<T>;
  using Scratch = SsimScratch<T>;

  static AVATAR_INLINE Lanes load(const T* from) {
    Lanes value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
  }
  static AVATAR_INLINE void store(T* to, Lanes value) { __builtin_memcpy(to, &value, sizeof value); }

  static AVATAR_INLINE double total(Lanes value) {
    double sum = 0;
    for (int i = 0; i < N; ++i) sum += value[i];
    return sum;
  }

  // One stage of a transposition: swaps the off-diagonal S x S blocks that two rows belong to.
  template <int S, int... I>
  static AVATAR_INLINE void swap_blocks(Lanes& upper, Lanes& lower, Indices<I...>) {
#if __has_builtin(__builtin_shufflevector)
    const Lanes swapped = __builtin_shufflevector(upper, lower, (I & S ? N + I - S : I)...);
    lower = __builtin_shufflevector(upper, lower, (I & S ? N + I : I + S)...);
#else  // GCC before 12
    typedef decltype(Lanes{} < Lanes{}) Order;
    const Lanes swapped = __builtin_shuffle(upper, lower, Order{(I & S ? N + I - S : I)...});
    lower = __builtin_shuffle(upper, lower, Order{(I & S ? N + I : I + S)...});
#endif
    upper = swapped;
  }
  template <int S = N / 2>
  static AVATAR_INLINE void transpose(Lanes (&tile)[N]) {
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i)
      if (!(i & S)) swap_blocks<S>(tile[i], tile[i + S], typename Count<N>::type());
    if constexpr (S > 1) transpose<S / 2>(tile);
  }

  // N outputs of the Gaussian from N + 10 rows; output i is centred on row i + 5.
  template <typename Row>
  static AVATAR_INLINE void blur(const Row& row, Lanes (&out)[N]) {
    Lanes rows[N + SSIM_HALO];
#pragma GCC unroll 16
    for (int i = 0; i < SSIM_HALO; ++i) rows[i] = row(i);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      rows[i + SSIM_HALO] = row(i + SSIM_HALO);
      Lanes sum = T(SSIM_TAPS[SSIM_RADIUS]) * rows[i + SSIM_RADIUS];
#pragma GCC unroll 16
      for (int k = 0; k < SSIM_RADIUS; ++k) sum += T(SSIM_TAPS[k]) * (rows[i + k] + rows[i + SSIM_HALO - k]);
      out[i] = sum;
    }
  }

  // N pixels of a row; zero right of the picture.
  static AVATAR_INLINE Lanes read(const Plane& plane, int64_t row, int64_t column, int64_t width) {
    if (!plane.data) return column + N <= width ? T(1) + Lanes{} : partial(plane, 0, width - column);
    const int64_t start = row * plane.row_step + column * plane.column_step;
    if (column + N > width) return partial(plane, start, width - column);
    const T* values = static_cast<const T*>(plane.data) + start;
    const uint8_t* bytes = static_cast<const uint8_t*>(plane.data) + start;
    if (!plane.bytes && plane.column_step == 1) return load(values);
    T gathered[N];
    if (plane.bytes && plane.column_step == 1)
      for (int i = 0; i < N; ++i) gathered[i] = static_cast<T>(static_cast<int>(bytes[i])) * T(1.0 / 255);
    else
      for (int i = 0; i < N; ++i) gathered[i] = pixel(plane, start + i * plane.column_step);
    return load(gathered);
  }
  static Lanes partial(const Plane& plane, int64_t start, int64_t count) {
    Lanes value = {};
    for (int i = 0; i < count; ++i) value[i] = plane.data ? pixel(plane, start + i * plane.column_step) : T(1);
    return value;
  }
  static AVATAR_INLINE T pixel(const Plane& plane, int64_t at) {
    if (plane.bytes) return static_cast<T>(static_cast<const uint8_t*>(plane.data)[at]) * T(1.0 / 255);
    return static_cast<const T*>(plane.data)[at];
  }

  // The next columns of a row are a cache line in another page than the next row's: no hardware guesses them.
  // With cold caches this takes an eighth off the time, and asking for the gradient's lines early as much again.
  static AVATAR_INLINE void prefetch(const Plane& plane, int64_t row, int64_t column) {
    const int64_t size = plane.bytes ? 1 : sizeof(T);
    const char* data = static_cast<const char*>(plane.data);
    if (data) __builtin_prefetch(data + (row * plane.row_step + column * plane.column_step) * size, 0, 2);
  }

  // Brings in the columns [column, column + SSIM_STEP) of the pictures and adds their L1 term.
  static void stage(Task& task, Scratch& s, int held, int64_t column) {
    Lanes l1 = {};
    for (int i = 0; i < held + SSIM_HALO; ++i) {
      const int64_t row = task.first - SSIM_HALO + i;
      const bool inside = row >= 0 && row < task.height;
      if (inside && column + 2 * SSIM_STEP <= task.width) {
        prefetch(task.pred, row, column + SSIM_STEP);
        prefetch(task.target, row, column + SSIM_STEP);
        if (task.v_pred && row >= task.first && row < task.last)
          __builtin_prefetch(task.v_pred + row * task.width + column + SSIM_STEP, 1, 2);
      }
      const int w = i - SSIM_RADIUS;  // the weight has no rows for the outer half of the halo
      for (int c = 0; c < SSIM_STEP; c += N) {
        store(&s.sum[i][c], load(&s.sum[i][c + SSIM_STEP]));
        store(&s.difference[i][c], load(&s.difference[i][c + SSIM_STEP]));
        const bool empty = !inside || column + c >= task.width;
        const Lanes pred = empty ? Lanes{} : read(task.pred, row, column + c, task.width);
        const Lanes target = empty ? Lanes{} : read(task.target, row, column + c, task.width);
        const Lanes difference = pred - target;
        store(&s.sum[i][c + SSIM_STEP], pred + target);
        store(&s.difference[i][c + SSIM_STEP], difference);
        if (w < 0 || w >= held) continue;
        const Lanes weight = empty ? Lanes{} : read(task.weight, row, column + c, task.width);
        store(&s.weight[w][c], load(&s.weight[w][c + SSIM_STEP]));
        store(&s.weight[w][c + SSIM_STEP], weight);
        if (row >= task.first && row < task.last) l1 += weight * (difference < 0 ? -difference : difference);
      }
    }
    task.l1 += total(l1);
  }

  // Blurs the staged columns downwards and appends them, transposed, to the moments.
  static void blur_columns(Scratch& s, int held) {
    for (int c = 0; c < SSIM_STEP; c += N)
      for (int i = 0; i < held; i += N)
        for (int k = 0; k < 4; ++k) {
          const auto* picture = k % 2 ? &s.difference[i] : &s.sum[i];
          Lanes tile[N];
          if (k < 2)
            blur([&](int r) { return load(&picture[r][c + SSIM_STEP]); }, tile);
          else
            blur([&](int r) { const Lanes x = load(&picture[r][c + SSIM_STEP]); return x * x; }, tile);
          transpose(tile);
          for (int r = 0; r < N; ++r) store(&s.moments[k][SSIM_HALO + c + r][i], tile[r]);
        }
  }

  // The weight of the columns that are compared in this step, transposed.
  static void turn_weight(Scratch& s, int held) {
    for (int c = 0; c < SSIM_STEP; c += N)
      for (int i = 0; i < held; i += N) {
        Lanes tile[N];
        for (int r = 0; r < N; ++r) tile[r] = load(&s.weight[i + r][c + SSIM_STEP - SSIM_RADIUS]);
        transpose(tile);
        for (int r = 0; r < N; ++r) store(&s.weight_columns[c + r][i], tile[r]);
      }
  }

  // Keeps the last columns of a window for the next step, N rows of the picture; they are in the L1 cache just now.
  static AVATAR_INLINE void slide(T (&window)[SSIM_WINDOW][SSIM_ROWS], int i) {
#pragma GCC unroll 16
    for (int r = 0; r < SSIM_HALO; ++r) store(&window[r][i], load(&window[r + SSIM_STEP][i]));
  }

  // SSIM of the columns centred on the moments' window, and its derivatives by the four moments.
  template <bool GRADIENT>
  static void compare(Task& task, Scratch& s, int held) {
    Lanes dssim = {};
    for (int i = 0; i < held; i += N) {
      const Lanes owned = load(&s.owned[i]);
      for (int c = 0; c < SSIM_STEP; c += N) {
        Lanes moments[4][N];
        for (int k = 0; k < 4; ++k) blur([&](int r) { return load(&s.moments[k][c + r][i]); }, moments[k]);
        for (int r = 0; r < N; ++r) {
          const Lanes mean_a = moments[0][r], mean_b = moments[1][r];
          const Lanes mean_aa = mean_a * mean_a, mean_bb = mean_b * mean_b;
          const Lanes var_a = moments[2][r] - mean_aa, var_b = moments[3][r] - mean_bb;
          const Lanes n1 = mean_aa - mean_bb + T(2 * SSIM_C1), d1 = mean_aa + mean_bb + T(2 * SSIM_C1);
          const Lanes n2 = var_a - var_b + T(2 * SSIM_C2), d2 = var_a + var_b + T(2 * SSIM_C2);
          const Lanes inverse = T(1) / (d1 * d2);
          const Lanes weight = load(&s.weight_columns[c + r][i]);
          // 1 - n1 n2 / (d1 d2) without the subtraction, by d1 - n1 = 2 mean_bb and d2 - n2 = 2 var_b
          dssim += owned * weight * (T(2) * (mean_bb * d2 + n1 * var_b) * inverse);
          if constexpr (GRADIENT) {
            const Lanes scale = T(-4) * task.ssim_scale * weight * inverse * inverse;
            const Lanes by_variance = scale * n1 * d1, by_mean = scale * n2 * d2;
            const Lanes v_aa = by_variance * var_b, v_bb = -by_variance * (var_a + T(2 * SSIM_C2));
            const Lanes v_a = mean_a * (by_mean * mean_bb - v_aa);
            const Lanes v_b = -mean_b * (by_mean * (mean_aa + T(2 * SSIM_C1)) + v_bb);
            store(&s.maps[0][SSIM_HALO + c + r][i], v_a + v_b);
            store(&s.maps[1][SSIM_HALO + c + r][i], v_aa);
            store(&s.maps[2][SSIM_HALO + c + r][i], v_bb);
          }
        }
      }
      for (auto& moment : s.moments) slide(moment, i);
    }
    task.dssim += total(dssim);
  }

  // Blurs the derivatives along the rows and turns them back into picture order.
  static void blur_maps(Scratch& s, int held) {
    for (int k = 0; k < 3; ++k)
      for (int i = 0; i < held; i += N) {
        for (int c = 0; c < SSIM_STEP; c += N) {
          Lanes tile[N];
          blur([&](int r) { return load(&s.maps[k][c + r][i]); }, tile);
          transpose(tile);
          for (int r = 0; r < N; ++r) store(&s.blurred_maps[k][i + r][c], tile[r]);
        }
        slide(s.maps[k], i);
      }
  }

  // Blurs the derivatives down the columns and writes the gradient of columns [column, column + SSIM_STEP).
  static void write_gradient(const Task& task, const Scratch& s, int64_t column) {
    constexpr int lag = SSIM_STEP - SSIM_HALO;  // where these columns lie in the staged ones
    for (int c = 0; c < SSIM_STEP; c += N) {
      const int64_t left = column + c;
      for (int64_t i = 0; i < task.last - task.first; i += N) {
        Lanes maps[3][N];
        for (int k = 0; k < 3; ++k) blur([&](int r) { return load(&s.blurred_maps[k][i + r][c]); }, maps[k]);
        for (int r = 0; r < N && task.first + i + r < task.last; ++r) {
          const Lanes sum = load(&s.sum[i + r + SSIM_HALO][lag + c]);
          const Lanes difference = load(&s.difference[i + r + SSIM_HALO][lag + c]);
          const Lanes l1 = task.l1_scale * load(&s.weight[i + r + SSIM_RADIUS][lag + c]);
          const Lanes sign = difference > 0 ? l1 : (difference < 0 ? -l1 : Lanes{});
          const Lanes gradient = maps[0][r] + sum * maps[1][r] + difference * maps[2][r] + sign;
          T* row = task.v_pred + (task.first + i + r) * task.width;
          if (left >= 0 && left + N <= task.width)
            store(row + left, gradient);
          else
            for (int k = 0; k < N; ++k)
              if (left + k >= 0 && left + k < task.width) row[left + k] = gradient[k];
        }
      }
    }
  }

  static void run(Task& task, Scratch& s) {
    const int owned = static_cast<int>(task.last - task.first);
    const int held = (owned + SSIM_HALO + SSIM_STEP - 1) / SSIM_STEP * SSIM_STEP;
    __builtin_memset(&s, 0, sizeof s);  // zero padding left of the picture
    for (int i = 0; i < owned; ++i) s.owned[SSIM_RADIUS + i] = 1;
    task.l1 = task.dssim = 0;
    const int64_t lag = task.v_pred ? SSIM_HALO : SSIM_RADIUS;
    for (int64_t column = 0; column < task.width + lag; column += SSIM_STEP) {
      stage(task, s, held, column);
      blur_columns(s, held);
      turn_weight(s, held);
      if (task.v_pred) {
        compare<true>(task, s, held);
        blur_maps(s, held);
        write_gradient(task, s, column - SSIM_HALO);
      } else {
        compare<false>(task, s, held);
      }
    }
  }
};

}  // namespace
}  // namespace avatar

#undef AVATAR_INLINE
