// Every constant of the kernels, each with its reason. Shared by CPU and CUDA.
#pragma once

namespace avatar {

// ---- rasteriser semantics: the same numbers as gsplat, so that results compare
constexpr int TILE = 16;                        // pixels a side; 4 x 4 blocks of 4 x 4 pixels, one block fills a 16-lane register
constexpr float ALPHA_MAX = 0.99f;              // keeps 1 - alpha away from zero, so the backward may divide by it
constexpr float ALPHA_MIN = 1.0f / 255.0f;      // below half a step of an 8-bit picture nothing is drawn
constexpr float TRANSMITTANCE_MIN = 1e-4f;      // a pixel is finished when the next transmittance would not exceed this
constexpr float LOG2E = 1.4426950408889634f;    // conics are scaled by it once, so that the inner loop needs exp2 only
constexpr float LOG2_255 = 7.994353436858858f;  // -log2(ALPHA_MIN): the exponent's cut-off

}  // namespace avatar
