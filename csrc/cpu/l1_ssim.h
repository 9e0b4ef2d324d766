// What the files of the fused L1 + SSIM loss agree on. Plain types only: the wide-instruction files include it.
#pragma once

#include <cstdint>

namespace avatar {

constexpr int SSIM_RADIUS = 5;  // an 11 x 11 window
constexpr int SSIM_HALO = 2 * SSIM_RADIUS;
constexpr double SSIM_C1 = 0.01 * 0.01, SSIM_C2 = 0.03 * 0.03;  // Wang et al. 2004 for values in 0..1
constexpr double SSIM_TAPS[SSIM_RADIUS + 1] = {  // Gaussian of sigma 1.5, 11 taps of sum one; the first half
    0.00102838008447911, 0.007598758135239185, 0.03600077212843083,
    0.10936068950970002, 0.2130055377112537,   0.26601172486179436};

constexpr int SSIM_STEP = 16;                     // columns a band advances at once: an AVX-512 register of floats
constexpr int SSIM_ROWS = 96;                     // rows of a task, halo included; the fastest of 48, 64, 96 and 128
constexpr int SSIM_BAND = SSIM_ROWS - SSIM_HALO;  // rows whose gradient a task owns
constexpr int SSIM_WINDOW = SSIM_STEP + SSIM_HALO;  // columns that the output of one step depends on

// One channel of one picture in any memory layout.
struct Plane {
  const void* data;    // pixel (0, 0); null for a weight that is one everywhere
  int64_t row_step;    // elements from one row to the next
  int64_t column_step; // elements from one column to the next
  bool bytes;          // uint8 0..255 instead of the operator's type 0..1
};

// Rows [first, last) of one channel: the sums and the gradient of
// l1_scale * sum weight |pred - target| + ssim_scale * sum weight (1 - ssim).
template <typename T>
struct SsimBand {
  Plane pred, target, weight;
  int64_t height, width, first, last;
  T l1_scale, ssim_scale;
  T* v_pred;        // [height, width], contiguous; null when no gradient is wanted
  double l1, dssim; // sum of weight |pred - target| and of weight (1 - ssim)
};

// Working memory of one task; its size does not depend on the picture.
template <typename T>
struct alignas(64) SsimScratch {
  // In picture order: the columns of the last step, then those of this one.
  T sum[SSIM_ROWS + SSIM_HALO][2 * SSIM_STEP];         // pred + target
  T difference[SSIM_ROWS + SSIM_HALO][2 * SSIM_STEP];  // pred - target
  T weight[SSIM_ROWS][2 * SSIM_STEP];                  // zero outside the picture
  // Transposed, so that a blur along a row is a blur down the rows of these.
  T moments[4][SSIM_WINDOW][SSIM_ROWS];     // sum, difference and their squares, blurred down the columns
  T maps[3][SSIM_WINDOW][SSIM_ROWS];        // derivatives by the blurred moments
  T weight_columns[SSIM_STEP][SSIM_ROWS];   // weight of the columns compared in this step
  T owned[SSIM_ROWS];                       // one for rows of the band, zero for its halo
  // In picture order again.
  T blurred_maps[3][SSIM_ROWS + SSIM_HALO][SSIM_STEP];  // maps blurred along the rows; the last rows stay zero
};

using SsimBandKernel = void (*)(SsimBand<float>&, SsimScratch<float>&);
extern const SsimBandKernel l1_ssim_avx512, l1_ssim_avx2;

}  // namespace avatar
